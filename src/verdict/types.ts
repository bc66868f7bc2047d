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

export interface Judgement {
  verdict: Verdict
  /** One line: why. */
  reason: string
  /** What was seen: splat text, last console lines, vCPU state. */
  evidence: string[]
}
