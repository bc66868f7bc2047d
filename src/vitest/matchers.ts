import { expect } from 'vitest'
import type { ExecResult, RunResult } from '../guest/types.ts'
import type { Point } from '../tap/types.ts'
import { lastLines } from './bounded-text.ts'

const SHOWN_LINES = 20

interface KvitestMatchers<R> {
  /** A command of a guest ended with this exit status. */
  toExitWith(status: number): R
  /** A script of a guest kept its plan, printed points, and none failed. */
  toAllPass(): R
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
      message: () =>
        [`the command ${howItEnded(received)}, not with status ${status}`, ...streams(received)].join('\n'),
    }
  },
  toAllPass(received: RunResult) {
    const { points, problems, bailOut, skipAll } = received.tap
    const failed = points.filter((point) => point.result === 'fail').map(nameOf)
    const wrong = [
      ...failed.map((name) => `not ok: ${name}`),
      ...problems,
      ...(bailOut === undefined ? [] : [`bail out: ${bailOut}`]),
      ...(skipAll === undefined ? [] : [`everything was skipped: ${skipAll}`]),
      ...(points.length === 0 ? ['no points'] : []),
      ...(received.status === 0 ? [] : [`the script ${howItEnded(received)}`]),
    ]
    return {
      pass: wrong.length === 0,
      message: () =>
        wrong.length === 0
          ? `all ${points.length} points passed`
          : [...wrong, ...streams(received)].join('\n'),
    }
  },
})

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
