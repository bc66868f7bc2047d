import type { Verdict } from '../verdict/types.ts'

/** What the guests of a run got from the machine's budget. */
export interface LeaseCount {
  count: number
  /** How many of them had to wait. */
  waited: number
  /** Milliseconds. */
  longestWait: number
  /** Granted beyond what there was because nothing moved: nobody knew what they waited for. */
  stalled: number
}

export const withoutScript = 'without a script'

/** What a run came to, beyond vitest's own count of tests. */
export interface RunSummary {
  /** One a guest: its verdict, or that only a test worked with it, whose result counts and not the guest's. */
  verdicts: (Verdict | typeof withoutScript)[]
  /** How many of the guests were forked from a checkpoint, and how many booted. */
  forks: number
  boots: number
  /** How often forks were taken back to their checkpoints. */
  resets: number
  /** Of the budget; absent where guests need none. */
  leases?: LeaseCount
  /** One a TAP point. */
  points: ('pass' | 'fail' | 'skip' | 'todo' | 'todo-pass')[]
  /** Tests that failed and then passed when they were run again. */
  flaky: { name: string; failure: string }[]
  /** Tests that failed as an entry says; `entry` is one line. */
  expected: { name: string; entry: string }[]
  /** Tests that passed though an entry says that they fail; they failed the run. */
  unexpectedPasses: { name: string; entry: string }[]
  /** Of the matrices of a run: their cells as they were expected and as they ran. */
  cells?: string[]
  /** What is wrong with the run as a whole, one line each; any of it failed the run. */
  problems: string[]
}

/** In the order of what a person must look at first. */
const verdictOrder: RunSummary['verdicts'] = [
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
  withoutScript,
]

const pointNames = {
  fail: 'failed',
  pass: 'ok',
  skip: 'skipped',
  todo: 'to do',
  'todo-pass': 'to do that pass',
} as const

/** The last lines of a run; none for a run without guests and cells in which nothing was expected or wrong. */
export function summaryLines(summary: RunSummary): string[] {
  const { flaky, expected, unexpectedPasses, problems, leases } = summary
  const stalled = leases?.stalled ?? 0
  return [
    ...guestLines(summary),
    ...(stalled > 0 ? [`${plural(stalled, 'guest')} started beyond the budget: nothing moved any more`] : []),
    ...(summary.cells ?? []),
    ...listed(
      flaky.length,
      'flaky test',
      ', failed and then passed:',
      flaky.map(({ name, failure }) => `${name}: ${failure}`),
    ),
    ...listed(expected.length, 'expected failure', ':', expected.map(withEntry)),
    ...listed(unexpectedPasses.length, 'unexpected pass', ':', unexpectedPasses.map(withEntry), 'es'),
    ...listed(problems.length, 'problem', ' of the run as a whole, which fails:', problems),
  ]
}

function guestLines({ verdicts, points, forks, boots, resets, leases }: RunSummary): string[] {
  if (verdicts.length === 0) return []
  const guests = counted(verdicts, verdictOrder, (verdict) => verdict)
  const results = Object.keys(pointNames) as (keyof typeof pointNames)[]
  const named = counted(points, results, (one) => pointNames[one])
  return [
    `${plural(verdicts.length, 'guest')}: ${guests}`,
    [
      plural(forks, 'fork'),
      plural(boots, 'boot'),
      ...(resets > 0 ? [plural(resets, 'reset')] : []),
      ...(leases ? [leaseText(leases)] : []),
    ].join(', '),
    `${plural(points.length, 'point')}${points.length > 0 ? `: ${named}` : ''}`,
  ]
}

function listed(count: number, what: string, end: string, lines: readonly string[], ending = 's'): string[] {
  return count === 0 ? [] : [`${plural(count, what, ending)}${end}`, ...lines.map((line) => `  ${line}`)]
}

function withEntry({ name, entry }: { name: string; entry: string }): string {
  return `${name}: ${entry}`
}

function leaseText({ count, waited, longestWait }: LeaseCount): string {
  const wait = waited === 0 ? 'none waited' : `${waited} waited, ${(longestWait / 1000).toFixed(1)} s at most`
  return `${plural(count, 'lease')} (${wait})`
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

function plural(count: number, word: string, ending = 's'): string {
  return `${count} ${word}${count === 1 ? '' : ending}`
}
