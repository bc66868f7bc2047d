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

test('leases say whether guests had to wait', () => {
  const of = (leases: { count: number; waited: number; longestWait: number }) =>
    summaryLines({ verdicts: ['pass'], points: [], flaky: [], leases }).slice(2)
  expect(of({ count: 3, waited: 0, longestWait: 0 })).toEqual(['3 leases: none waited'])
  expect(of({ count: 1, waited: 1, longestWait: 1230 })).toEqual(['1 lease: 1 waited, 1.2 s at most'])
  expect(of({ count: 0, waited: 0, longestWait: 0 })).toEqual([])
})
