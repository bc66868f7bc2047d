import type { Verdict } from '../verdict/types.ts'

/** What the guests of a run got from the machine's budget. */
export interface LeaseCount {
  count: number
  /** How many of them had to wait. */
  waited: number
  /** Milliseconds. */
  longestWait: number
}

/** What a run came to, beyond vitest's own count of tests. */
export interface RunSummary {
  /** One a guest. */
  verdicts: Verdict[]
  /** One a TAP point. */
  points: ('pass' | 'fail' | 'skip' | 'todo' | 'todo-pass')[]
  /** Tests that failed and then passed when they were run again. */
  flaky: { name: string; failure: string }[]
  leases?: LeaseCount
}

/** In the order of what a person must look at first. */
const verdictOrder: Verdict[] = [
  'vmm-crash',
  'infra',
  'panic',
  'oops',
  'hang',
  'boot-fail',
  'timeout',
  'fail',
  'skip',
  'pass',
]

const pointNames = {
  fail: 'failed',
  pass: 'ok',
  skip: 'skipped',
  todo: 'to do',
  'todo-pass': 'to do that pass',
} as const

/** The last lines of a run; none for a run without guests. */
export function summaryLines(summary: RunSummary): string[] {
  const { verdicts, points, flaky } = summary
  if (verdicts.length === 0) return []
  const guests = counted(verdicts, verdictOrder, (verdict) => verdict)
  const named = counted(
    points,
    Object.keys(pointNames) as (keyof typeof pointNames)[],
    (one) => pointNames[one],
  )
  const lines = [
    `${plural(verdicts.length, 'guest')}: ${guests}`,
    `${plural(points.length, 'point')}${points.length > 0 ? `: ${named}` : ''}`,
  ]
  if (summary.leases && summary.leases.count > 0) lines.push(leaseLine(summary.leases))
  if (flaky.length > 0) {
    lines.push(`${plural(flaky.length, 'flaky test')}, failed and then passed:`)
    for (const { name, failure } of flaky) lines.push(`  ${name}: ${failure}`)
  }
  return lines
}

function leaseLine({ count, waited, longestWait }: LeaseCount): string {
  const wait = waited === 0 ? 'none waited' : `${waited} waited, ${(longestWait / 1000).toFixed(1)} s at most`
  return `${plural(count, 'lease')}: ${wait}`
}

function counted<T extends string>(
  values: readonly T[],
  order: readonly T[],
  name: (one: T) => string,
): string {
  return order
    .map((one) => [values.filter((value) => value === one).length, name(one)] as const)
    .filter(([count]) => count > 0)
    .map(([count, word]) => `${count} ${word}`)
    .join(', ')
}

function plural(count: number, word: string): string {
  return `${count} ${word}${count === 1 ? '' : 's'}`
}
