import { describe, expect, test } from 'vitest'
import { type Coordinates, cellName } from '../axes.ts'
import { bisectAxes, bisectBuilds, confirmed, type Outcome, type TryCell } from './search.ts'

const bad: Coordinates = { host: 'new', tool: 'old', guest: 'late', accelerator: 'tcg', machine: 'smp' }
/** Without the rest: as it is where a matrix does not say. */
const good: Coordinates = { host: 'base', tool: 'base', guest: 'base' }

/** A matrix whose cells are as `rule` says; what was tried, in order. */
function played(rule: (cell: Coordinates) => Outcome): { tryCell: TryCell; tried: string[] } {
  const tried: string[] = []
  return {
    tried,
    tryCell: async (cell) => {
      tried.push(cellName(cell))
      return rule(cell)
    },
  }
}

const when = (isBad: boolean): Outcome => (isBad ? 'bad' : 'good')

describe('one axis at a time', () => {
  test.for(['host', 'tool', 'guest', 'accelerator', 'machine'] as const)(
    'the %s alone is found, the others become the baseline',
    async (axis) => {
      const { tryCell, tried } = played((cell) => when(cell[axis] === bad[axis]))
      const found = await bisectAxes(bad, good, tryCell)
      expect(found).toEqual({ bad: { ...good, [axis]: bad[axis] }, good: { cell: good, axis }, unknown: [] })
      expect(new Set(tried).size).toBe(tried.length)
      // The good cell is known.
      expect(tried).not.toContain(cellName(good))
    },
  )

  test('what takes two axes keeps both, and a good cell is one axis away', async () => {
    const { tryCell } = played(({ host, guest }) => when(host === 'new' && guest === 'late'))
    const found = await bisectAxes(bad, good, tryCell)
    expect(found.bad).toEqual({ host: 'new', tool: 'base', guest: 'late' })
    expect(found.good!.cell).toEqual({ ...found.bad, [found.good!.axis]: good[found.good!.axis] })
  })

  test('what takes either of two axes ends with one of them', async () => {
    const { tryCell } = played(({ host, guest }) => when(host === 'new' || guest === 'late'))
    const found = await bisectAxes(bad, good, tryCell)
    expect(found).toEqual({ bad: { ...good, host: 'new' }, good: { cell: good, axis: 'host' }, unknown: [] })
  })

  test('a neighbour of a cell that was left is not taken for one of the last', async () => {
    // Taking the guest first is good as long as the tool is old.
    const { tryCell } = played(({ host, tool, guest }) =>
      when(host === 'new' && (guest === 'late' || tool === 'base')),
    )
    const found = await bisectAxes(bad, good, tryCell)
    expect(found.bad).toEqual({ host: 'new', tool: 'base', guest: 'base' })
    expect(found.good).toEqual({ cell: good, axis: 'host' })
  })

  test('a tool without a guest has no such axis', async () => {
    const { tryCell, tried } = played(() => 'good')
    const [a, b] = [
      { host: 'new', tool: 'probe' },
      { host: 'base', tool: 'probe' },
    ]
    expect(await bisectAxes(a, b, tryCell)).toEqual({ bad: a, good: { cell: b, axis: 'host' }, unknown: [] })
    expect(tried).toEqual([])
  })

  test('a cell that says nothing is neither: it is named', async () => {
    const { tryCell } = played(({ tool }) => (tool === 'base' ? 'unknown' : 'bad'))
    const found = await bisectAxes(bad, { ...good, host: 'new' }, tryCell)
    // The guest went; without the tool only the good cell is left, which is known.
    expect(found).toEqual({
      bad: { host: 'new', tool: 'old', guest: 'base' },
      good: { cell: { ...good, host: 'new' }, axis: 'tool' },
      unknown: [],
    })
    const silent = played(() => 'unknown')
    const none = await bisectAxes(bad, good, silent.tryCell)
    expect(none.good).toBeUndefined()
    expect(none.bad).toEqual(bad)
    expect(none.unknown.map(cellName)).toEqual([
      'new > old accelerator:tcg > late',
      'new > old machine:smp > late',
      'new > old accelerator:tcg machine:smp > base',
      'new > base accelerator:tcg machine:smp > late',
      'base > old accelerator:tcg machine:smp > late',
    ])
  })
})

describe('builds', () => {
  const row = (length: number) => Array.from({ length }, (_, at) => `b${at}`)

  test.for([2, 3, 7, 18])('of %i builds each place is found, in a logarithm of runs', async (length) => {
    const builds = row(length)
    for (let first = 1; first < length; first++) {
      const tried: string[] = []
      const found = await bisectBuilds(builds, async (build) => {
        tried.push(build)
        return when(Number(build.slice(1)) >= first)
      })
      expect(found).toEqual({ good: `b${first - 1}`, bad: `b${first}`, unknown: [] })
      expect(tried.length).toBeLessThanOrEqual(Math.ceil(Math.log2(length)))
    }
  })

  test('a build that says nothing is stepped over, and named when it is in between', async () => {
    const at = (build: string) => Number(build.slice(1))
    const found = await bisectBuilds(row(9), async (build) =>
      [4, 5].includes(at(build)) ? 'unknown' : when(at(build) >= 5),
    )
    expect(found).toEqual({ good: 'b3', bad: 'b6', unknown: ['b4', 'b5'] })
    expect(await bisectBuilds(row(3), async () => 'unknown')).toEqual({
      good: 'b0',
      bad: 'b2',
      unknown: ['b1'],
    })
  })
})

describe('bad, good, bad', () => {
  test('is a verdict', async () => {
    const { tryCell, tried } = played(({ host }) => when(host === 'new'))
    expect(await confirmed(bad, good, tryCell)).toEqual({
      isConfirmed: true,
      outcomes: ['bad', 'good', 'bad'],
    })
    expect(tried).toHaveLength(3)
  })

  test.for([
    ['bad', 'good', 'good'],
    ['good', 'good', 'bad'],
    ['bad', 'bad', 'bad'],
    ['bad', 'unknown', 'bad'],
  ] satisfies Outcome[][])('%s is none', async (row) => {
    const outcomes = [...row]
    expect(await confirmed(bad, good, async () => outcomes.shift()!)).toEqual({
      isConfirmed: false,
      outcomes: row,
    })
  })
})
