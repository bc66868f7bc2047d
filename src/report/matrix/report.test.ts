import { expect, test } from 'vitest'
import { matrixReport } from './report.ts'
import { point, ranCell, sampleReport } from './testing/run.ts'

const common = { kvitest: '0', matrix: 'm', file: 'm.matrix.ts', project: '', started: '', problems: [] }

test('each cell that was expected is there, whatever came of it', () => {
  const { cells, count } = sampleReport()

  expect(cells.map(({ id, state, verdict, red, known }) => [id, state, verdict, red, known])).toEqual([
    ['lab:debian:6.1-cloud > selftests-6.1', 'run', 'pass', 0, 0],
    ['lab:debian:6.1-cloud > qemu-7.2 > debian:6.12-cloud', 'run', 'pass', 0, 0],
    ['lab:debian:6.12-cloud > selftests-6.1', 'run', 'fail', 1, 1],
    ['lab:debian:6.12-cloud > qemu-7.2 > debian:6.12-cloud', 'run', 'fail', 0, 1],
    ['local > selftests-6.1', 'lost', undefined, 0, 0],
  ])
  expect(count).toEqual({ expected: 5, run: 4, excepted: 0, missing: 1 })
  expect(cells[0]!.counts).toEqual({ pass: 1, skip: 1 })
  expect(cells[0]!.duration).toBe(20)
})

test('points are compared with those of the baseline, of the same tool and guest', () => {
  const expected = ['old > a > g', 'old > a > h', 'new > a > g']
  const ran = new Map([
    ranCell('old > a > g', [point('x', 'pass'), point('y', 'skip', { reason: 'none' })]),
    ranCell('old > a > h', [point('x', 'fail')]),
    ranCell('new > a > g', [point('x', 'pass'), point('y', 'fail', { reason: 'EIO' })], {
      baseline: 'old > a > g',
    }),
  ])
  const { cells } = matrixReport({ ...common, isPart: false, expected, ran })

  expect(cells[2]!.differences).toEqual(['-y: skip (none)', '+y: fail (EIO)'])
  expect(cells[2]!.points.map(({ before }) => before)).toEqual([
    undefined,
    { verdict: 'skip', reason: 'none' },
  ])
  expect(cells.slice(0, 2).flatMap(({ differences }) => differences)).toEqual([])
})

test('a cell that is not there is left out of a part, and lost from a whole', () => {
  const rest = {
    ...common,
    expected: ['old > a', 'old > b'],
    ran: new Map([ranCell('old > b', [], { excepted: 'why' })]),
  }
  const states = (isPart: boolean) =>
    matrixReport({ ...rest, isPart }).cells.map(({ state, reason }) => [state, reason])

  expect(states(true)).toEqual([
    ['left out', 'left out by the run'],
    ['excepted', 'why'],
  ])
  expect(states(false)).toEqual([
    ['lost', 'it did not run (infra)'],
    ['excepted', 'why'],
  ])
})
