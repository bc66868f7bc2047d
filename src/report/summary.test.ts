import { expect, test } from 'vitest'
import { summaryLines as linesOf, type RunSummary, withoutScript } from './summary.ts'

function summaryLines(some: Partial<RunSummary>): string[] {
  const none: RunSummary = {
    verdicts: [],
    forks: 0,
    boots: 0,
    resets: 0,
    points: [],
    flaky: [],
    expected: [],
    unexpectedPasses: [],
    problems: [],
  }
  return linesOf({ ...none, ...some })
}

test('guests by verdict, the worst first, and points by result', () => {
  expect(
    summaryLines({
      verdicts: ['pass', 'panic', 'pass', withoutScript, 'skip'],
      points: ['pass', 'fail', 'pass', 'skip', 'todo'],
      forks: 3,
      boots: 1,
      resets: 2,
      leases: { count: 4, waited: 1, longestWait: 1540, stalled: 0 },
    }),
  ).toEqual([
    '5 guests: 1 panic, 1 skip, 2 pass, 1 without a script',
    '3 forks, 1 boot, 2 resets, 4 leases (1 waited, 1.5 s at most)',
    '5 points: 1 failed, 2 ok, 1 skipped, 1 to do',
  ])
})

test('flaky tests are named with what they failed with', () => {
  expect(
    summaryLines({
      verdicts: ['pass'],
      forks: 1,
      points: ['pass'],
      flaky: [{ name: 'a > b', failure: 'not ok 1' }],
    }),
  ).toEqual([
    '1 guest: 1 pass',
    '1 fork, 0 boots',
    '1 point: 1 ok',
    '1 flaky test, failed and then passed:',
    '  a > b: not ok 1',
  ])
})

test('a guest without points is seen, a run without guests says nothing', () => {
  expect(summaryLines({ verdicts: ['hang'] })).toEqual(['1 guest: 1 hang', '0 forks, 0 boots', '0 points'])
  expect(summaryLines({})).toEqual([])
})

test('what was expected, what no longer is, and what is wrong with the run are named, with or without guests', () => {
  expect(
    summaryLines({
      expected: [{ name: 'a > b', entry: 'x.expect.yaml:2: slow, https://example.org/1' }],
      unexpectedPasses: [
        { name: 'a > c', entry: 'x.expect.yaml:6' },
        { name: 'a > d', entry: 'x.expect.yaml:9' },
      ],
      problems: ['p has no cells'],
    }),
  ).toEqual([
    '1 expected failure:',
    '  a > b: x.expect.yaml:2: slow, https://example.org/1',
    '2 unexpected passes:',
    '  a > c: x.expect.yaml:6',
    '  a > d: x.expect.yaml:9',
    '1 problem of the run as a whole, which fails:',
    '  p has no cells',
  ])
})

test('guests that a line which stood still let through are counted, even where nothing else is', () => {
  const leases = { count: 2, waited: 2, longestWait: 15_000, stalled: 1 }
  expect(summaryLines({ leases })).toEqual(['1 guest started beyond the budget: nothing moved any more'])
})

test('leases say whether guests had to wait', () => {
  const leases = { count: 3, waited: 0, longestWait: 0, stalled: 0 }
  expect(summaryLines({ verdicts: ['pass'], leases })).toContain('0 forks, 0 boots, 3 leases (none waited)')
})
