import type { Entry } from './expectations.ts'

export type Verdict =
  | 'pass'
  | 'fail'
  | 'skip'
  | 'panic'
  | 'oops'
  | 'hang'
  | 'boot-fail'
  | 'timeout'
  | 'vmm-crash'
  | 'infra'

/** Reason of a `skip`: of a guest that a test worked with by commands alone there is nothing else to judge. */
export const noScript = 'no script ran'

export interface Judgement {
  verdict: Verdict
  /** One line: why. */
  reason: string
  /** What was seen: splat text, last console lines, vCPU state. */
  evidence: string[]
  /** The splats that were allowed, and the entry that did; absent when there were none. */
  allowed?: { title: string; by: Entry }[]
}
