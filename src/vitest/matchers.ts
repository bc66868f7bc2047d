import { expect } from 'vitest'
import type { ExecResult, Guest, RunResult } from '../guest/types.ts'
import type { Point, TapSummary } from '../tap/types.ts'
import { findSplats } from '../verdict/splat.ts'
import { lastLines } from './bounded-text.ts'

const SHOWN_LINES = 20
const DMESG_TIMEOUT = 30_000

interface KvitestMatchers<R> {
  /** A command of a guest ended with this exit status. */
  toExitWith(status: number): R
  /** A script of a guest (or its TAP alone) kept its plan, printed points, and none failed. */
  toAllPass(): R
  /** The kernel of a guest has reported no misbehaviour of its own. Await it: a live guest is asked. */
  toHaveNoSplats(options?: SplatOptions): Promise<void>
}

export interface SplatOptions {
  /** Reports with such a title do not count. */
  allow?: readonly RegExp[]
}

declare module 'vitest' {
  interface Matchers<R extends void | Promise<void>, T> extends KvitestMatchers<R> {}
}

expect.extend({
  toExitWith(received: ExecResult, status: number) {
    return {
      pass: received.status === status,
      actual: received.status,
      expected: status,
      message: () => {
        const wanted = this.isNot ? 'which it should not' : `not with status ${status}`
        return [`the command ${howItEnded(received)}, ${wanted}`, ...streams(received)].join('\n')
      },
    }
  },
  toAllPass(received: RunResult | TapSummary) {
    const run = 'tap' in received ? received : undefined
    const { points, problems, bailOut, skipAll } = 'tap' in received ? received.tap : received
    const failed = points.filter((point) => point.result === 'fail').map(nameOf)
    const wrong = [
      ...failed.map((name) => `not ok: ${name}`),
      ...problems,
      ...(bailOut === undefined ? [] : [`bail out: ${bailOut}`]),
      ...(skipAll === undefined ? [] : [`everything was skipped: ${skipAll}`]),
      ...(points.length === 0 ? ['no points'] : []),
      ...(run === undefined || run.status === 0 ? [] : [`the script ${howItEnded(run)}`]),
    ]
    return {
      pass: wrong.length === 0,
      message: () =>
        wrong.length === 0
          ? `all ${points.length} points passed`
          : [...wrong, ...(run ? streams(run) : [])].join('\n'),
    }
  },
  async toHaveNoSplats(
    received: Pick<Guest, 'name' | 'console' | 'exec'>,
    { allow = [] }: SplatOptions = {},
  ) {
    const splats = findSplats(await kernelLog(received))
    const standing = splats.filter(({ title }) => !allow.some((pattern) => title.search(pattern) >= 0))
    return {
      pass: standing.length === 0,
      message: () =>
        standing.length === 0
          ? `the kernel of ${received.name} reported nothing`
          : [
              `the kernel of ${received.name} reported:`,
              ...standing.map(({ title }) => `  ${title}`),
              ...lastLines(standing[0]!.text, SHOWN_LINES),
            ].join('\n'),
    }
  },
})

/** A live guest has all of it; the console of one that has ended, what its log level let through. */
async function kernelLog(guest: Pick<Guest, 'console' | 'exec'>): Promise<string> {
  const log = await guest.exec(['dmesg'], { timeout: DMESG_TIMEOUT }).catch(() => undefined)
  const console = guest.console.text()
  // The ring may have lost what the console has shown.
  const isWhole = log?.status === 0 && findSplats(log.stdout).length >= findSplats(console).length
  return isWhole ? log.stdout : console
}

function nameOf(point: Point): string {
  return [...point.path, point.name].join(' > ')
}

function howItEnded(result: ExecResult): string {
  if (result.timedOut) return 'was over its time'
  return result.signal === null ? `exited with status ${result.status}` : `was killed by ${result.signal}`
}

function streams({ stdout, stderr }: ExecResult): string[] {
  return [
    ...(stdout.trim() ? ['stdout:', ...lastLines(stdout, SHOWN_LINES)] : []),
    ...(stderr.trim() ? ['stderr:', ...lastLines(stderr, SHOWN_LINES)] : []),
  ]
}
