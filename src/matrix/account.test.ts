import { describe, expect, test } from 'vitest'
import {
  accountLines,
  type CellRecord,
  cellVerdict,
  compareCells,
  differenceLines,
  missingCells,
} from './account.ts'
import type { PointResult } from './tool.ts'

const point = (verdict: PointResult['verdict'], reason = ''): PointResult => ({ verdict, reason, output: '' })
const record = (host: string, tool: string, rest: Partial<CellRecord> = {}): CellRecord => ({
  matrix: 'm',
  id: `${host} > ${tool}`,
  host,
  tool,
  verdict: 'pass',
  reason: '',
  points: {},
  ...rest,
})

describe('the verdict of a cell', () => {
  test('is the worst of its points, with that one`s reason', () => {
    const worst = cellVerdict([
      point('pass'),
      point('fail', 'x'),
      point('timeout', 'late'),
      point('skip', 'no'),
    ])
    expect(worst).toEqual({
      verdict: 'timeout',
      reason: 'late',
      points: { pass: 1, fail: 1, timeout: 1, skip: 1 },
    })
  })

  test('is skip only when nothing else is there, and infra when nothing is', () => {
    expect(cellVerdict([point('skip', 'no'), point('pass')]).verdict).toBe('pass')
    expect(cellVerdict([point('skip', 'no')])).toMatchObject({ verdict: 'skip', reason: 'no' })
    expect(cellVerdict([])).toMatchObject({ verdict: 'infra', reason: 'no point ran' })
  })
})

describe('the account of a run', () => {
  const expected = ['a > old', 'a > new', 'b > old', 'b > new']
  const ran = [
    record('a', 'old'),
    record('a', 'new', { verdict: 'fail' }),
    record('b', 'new', { excepted: 'not there' }),
  ]

  test('adds up, in all and by axis', () => {
    expect(accountLines('m', expected, ran)).toEqual([
      'matrix m: 4 expected = 2 run + 1 skipped with a reason + 1 not run',
      '  host a: 2 expected = 2 run + 0 skipped with a reason; 1 fail, 1 pass',
      '  host b: 2 expected = 0 run + 1 skipped with a reason + 1 not run',
      '  tool old: 2 expected = 1 run + 0 skipped with a reason + 1 not run; 1 pass',
      '  tool new: 2 expected = 1 run + 1 skipped with a reason; 1 fail',
    ])
  })

  test('by an axis that its names leave out where that is not the only value', () => {
    const ids = ['a > vmm > g', 'a > vmm machine:smp > g', 'b > old']
    const lines = accountLines('m', ids, [])
    expect(lines.slice(5).map((line) => line.split(' expected')[0])).toEqual([
      '  guest g: 2',
      '  machine default: 2',
      '  machine smp: 1',
    ])
  })

  test('names the cells that are not there', () => {
    expect(missingCells(expected, ran)).toEqual(['b > old'])
  })
})

test('a cell is compared with its baseline point by point, and shown as a diff', () => {
  const before = new Map([
    ['same', point('skip', 'one reason')],
    ['gone', point('pass')],
    ['mended', point('fail', 'EIO')],
  ])
  const after = new Map([
    ['same', point('skip', 'another reason')],
    ['gone', point('skip', 'needs ABI 7')],
    ['mended', point('pass')],
    ['new', point('pass')],
  ])
  const differences = compareCells(before, after)
  expect(differenceLines(record('b', 'old', { baseline: 'a > old', differences }))).toEqual([
    'b > old differs from a in 2 points:',
    '  -gone: pass',
    '  +gone: skip (needs ABI 7)',
    '  -mended: fail (EIO)',
    '  +mended: pass',
  ])
  expect(differenceLines(record('b', 'old', { baseline: 'a > old', differences: [] }))).toEqual([])
})
