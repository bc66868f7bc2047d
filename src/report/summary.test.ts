import { expect, test } from 'vitest'
import { summaryLines } from './summary.ts'

test('guests by verdict, the worst first, and points by result', () => {
  expect(
    summaryLines({
      verdicts: ['pass', 'panic', 'pass', 'skip'],
      points: ['pass', 'fail', 'pass', 'skip', 'todo'],
      flaky: [],
    }),
  ).toEqual(['4 guests: 1 panic, 1 skip, 2 pass', '5 points: 1 failed, 2 ok, 1 skipped, 1 to do'])
})

test('flaky tests are named with what they failed with', () => {
  expect(
    summaryLines({ verdicts: ['pass'], points: ['pass'], flaky: [{ name: 'a > b', failure: 'not ok 1' }] }),
  ).toEqual([
    '1 guest: 1 pass',
    '1 point: 1 ok',
    '1 flaky test, failed and then passed:',
    '  a > b: not ok 1',
  ])
})

test('a guest without points is seen, a run without guests says nothing', () => {
  expect(summaryLines({ verdicts: ['hang'], points: [], flaky: [] })).toEqual(['1 guest: 1 hang', '0 points'])
  expect(summaryLines({ verdicts: [], points: [], flaky: [] })).toEqual([])
})
