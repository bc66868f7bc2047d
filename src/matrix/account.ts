/** Counting a run's cells: expected = run + skipped with a reason, in all and by each axis. */
import { axes, axisValue, type Coordinates, cellAxes, unnamed, whereElse } from './axes.ts'
import { fingerprintDifferences } from './fingerprint.ts'
import type { PointResult } from './tool.ts'

/** One cell of a run, for the reporters. */
export interface CellRecord extends Coordinates {
  matrix: string
  id: string
  toolVersion?: string
  /** sha256 of its pack. */
  toolHash?: string
  hostKernel?: string
  /** As HostInfo has it: of the host, not of the tool. */
  hostAccelerator?: string
  /** Why it was not run. */
  excepted?: string
  verdict: PointResult['verdict']
  reason: string
  /** Points by verdict. */
  points: Partial<Record<PointResult['verdict'], number>>
  /** Against the baseline cell, a line each: `-name: pass`, `+name: fail (reason)`. */
  differences?: string[]
  /** Id of the baseline cell; absent for that one itself. */
  baseline?: string
  /** Where it became red, a line each. */
  bisection?: string[]
}

const worstFirst: PointResult['verdict'][] = ['infra', 'oops', 'timeout', 'fail', 'skip', 'pass']

/** The verdict of a cell from its points; `skip` only when all of them skipped. */
export function cellVerdict(
  results: Iterable<PointResult>,
): Pick<CellRecord, 'verdict' | 'reason' | 'points'> {
  const all = [...results]
  if (all.length === 0) return { verdict: 'infra', reason: 'no point ran', points: {} }
  const points: CellRecord['points'] = {}
  for (const { verdict } of all) points[verdict] = (points[verdict] ?? 0) + 1
  const order = worstFirst.filter((verdict) => points[verdict])
  // A skip beside passes makes no cell a skipped one.
  const verdict = order.find((one) => one !== 'skip' || order.length === 1)!
  const first = all.find((one) => one.verdict === verdict)
  return { verdict, reason: verdict === 'pass' ? '' : (first?.reason ?? ''), points }
}

/** What two cells of one tool came to differently: the diff that is shown, two lines a point, or a value of a fingerprint. */
export function compareCells(
  baseline: ReadonlyMap<string, PointResult>,
  candidate: ReadonlyMap<string, PointResult>,
): string[] {
  const show = ({ verdict, reason }: PointResult) => `${verdict}${reason ? ` (${reason})` : ''}`
  return [...candidate].flatMap(([name, result]) => {
    const before = baseline.get(name)
    if (!before) return []
    const values = fingerprintDifferences(name, before, result)
    if (values.length > 0 || before.verdict === result.verdict) return values
    return [`-${name}: ${show(before)}`, `+${name}: ${show(result)}`]
  })
}

export interface CellCount {
  expected: number
  run: number
  excepted: number
}

export function countCells(records: readonly CellRecord[], expected: number): CellCount {
  const excepted = records.filter((one) => one.excepted !== undefined).length
  return { expected, run: records.length - excepted, excepted }
}

export function countText({ expected, run, excepted }: CellCount): string {
  const missing = expected - run - excepted
  return `${expected} expected = ${run} run + ${excepted} skipped with a reason${missing > 0 ? ` + ${missing} not run` : ''}`
}

/** The lines of one matrix at the end of a run. */
export function accountLines(
  matrix: string,
  expected: readonly string[],
  ran: readonly CellRecord[],
): string[] {
  const lines = [`matrix ${matrix}: ${countText(countCells(ran, expected.length))}`]
  const byValue = axes.flatMap((axis) => {
    const groups = Map.groupBy(expected, (id) => axisValue(cellAxes(id), axis))
    // An axis that no cell is elsewhere on is none of this matrix.
    if (axis in unnamed && groups.size === 1) return []
    return [...groups].flatMap(([value, ids]) =>
      value === undefined ? [] : [[`${axis} ${value}`, ids] as const],
    )
  })
  for (const [value, ids] of byValue) {
    const mine = ran.filter(({ id }) => ids.includes(id))
    const verdicts = worstFirst.flatMap((verdict) => {
      const number = mine.filter((one) => one.excepted === undefined && one.verdict === verdict).length
      return number > 0 ? [`${number} ${verdict}`] : []
    })
    lines.push(
      `  ${value}: ${countText(countCells(mine, ids.length))}${verdicts.length > 0 ? `; ${verdicts.join(', ')}` : ''}`,
    )
  }
  return lines
}

/** Cells that were expected and are not there. */
export function missingCells(expected: readonly string[], ran: readonly CellRecord[]): string[] {
  const there = new Set(ran.map(({ id }) => id))
  return expected.filter((id) => !there.has(id))
}

/** Lines of one cell's diff that are shown at the end of a run; the JUnit file has all. */
const shownDifferences = 24

/** How a cell differs from its baseline, as a diff; nothing where it does not. */
export function differenceLines(cell: CellRecord): string[] {
  const { id, baseline, differences = [], bisection = [] } = cell
  if (baseline === undefined || differences.length === 0) return bisection
  const points = differences.length / 2
  const more = differences.length - shownDifferences
  return [
    `${id} differs from ${whereElse(cellAxes(baseline), cell)} in ${points} point${points === 1 ? '' : 's'}:`,
    ...differences.slice(0, shownDifferences).map((line) => `  ${line}`),
    ...(more > 0 ? [`  ... ${more / 2} more in the JUnit file`] : []),
    ...bisection,
  ]
}
