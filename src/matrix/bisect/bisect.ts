/** Finds where a red cell of a matrix became red. What runs a cell and which builds there are comes from outside. */
import { KvitestError } from '../../native/error.ts'
import { type Axis, type Coordinates, cellAxes, cellName } from '../axes.ts'
import { baselineOf, cellAt, expandMatrix, type MatrixDeclaration } from '../declare.ts'
import type { PointResult } from '../tool.ts'
import { bisectAxes, bisectBuilds, confirmed, type Outcome } from './search.ts'

export interface BisectRequest {
  /** `lab:debian:6.12-cloud > probe-6.1` */
  cell: string
  /** One that is good, anywhere; default its baseline. */
  good?: string
  /** Points to look at; default those that are red and pass in the good cell. */
  points?: string[]
}

export interface BisectMeans {
  /** The points of a cell, or of these alone. Rejects for one that cannot be run. */
  run(cell: Coordinates, points?: string[]): Promise<Map<string, PointResult>>
  /** Hosts or guests in between, with both: from the good one to the bad one. Empty where nothing is in between. */
  buildsBetween(axis: Axis, good: string, bad: string): Promise<string[]>
  /** Progress, a line each. */
  say(line: string): void
}

export interface Bisection {
  cell: string
  /** The points that were looked at. */
  points: string[]
  /** The bad cell with as much of the good one as it can have. */
  minimal: string
  /** Good, one axis away. */
  nearest?: string
  axis?: Axis
  /** Builds that were in between and could not be tried. */
  skipped: string[]
  /** Cells one axis away that say nothing, when no good one was found. */
  unknown: string[]
  /** Of bad, good, bad, run anew; absent without a pair. */
  outcomes?: Outcome[]
  verdict: 'found' | 'flaky' | 'not found'
}

function refuse(detail: string, hint?: string): never {
  throw new KvitestError('bisect', detail, { code: 'EINVAL', ...(hint ? { hint } : {}), infra: false })
}

/** The cell that is bad and the one that is good, as they are asked for. */
function pairOf(matrix: MatrixDeclaration, { cell, good }: BisectRequest): [Coordinates, Coordinates] {
  const bad = cellAt(matrix, cellAxes(cell)).at
  const known = expandMatrix(matrix)
  const excepted = known.find(({ id }) => id === cell)?.excepted
  if (excepted !== undefined) refuse(`${cell} is not run: ${excepted}`)
  if (!known.some(({ id }) => id === cell)) {
    refuse(
      `the matrix ${matrix.name} has no cell '${cell}'`,
      `cells are ${known.map(({ id }) => id).join('; ')}`,
    )
  }
  if (good !== undefined) {
    const other = cellAt(matrix, cellAxes(good)).at
    if (cellName(other) === cellName(bad))
      refuse(`${cell} is to be bad and good`, 'name another one with --good')
    return [bad, other]
  }
  if (!matrix.baseline) refuse(`the matrix ${matrix.name} has no baseline`, 'name a good cell with --good')
  const baseline = baselineOf(matrix, bad)
  if (!baseline) refuse(`${cell} is on the baseline itself`, 'name a good cell with --good')
  return [bad, baseline]
}

function isBad(result: PointResult | undefined): boolean {
  return result !== undefined && result.verdict !== 'pass' && result.verdict !== 'infra'
}

/** What a cell says about these points: bad when one is not passed, and nothing when one is not there. */
export function outcomeOf(results: ReadonlyMap<string, PointResult>, points: readonly string[]): Outcome {
  const mine = points.map((name) => results.get(name))
  if (mine.some((one) => one === undefined || one.verdict === 'infra')) return 'unknown'
  return mine.some(isBad) ? 'bad' : 'good'
}

/** Points that are bad in one cell and pass in the other. Throws a KvitestError when there is none. */
function pointsOf(
  names: [string, string],
  bad: ReadonlyMap<string, PointResult>,
  good: ReadonlyMap<string, PointResult>,
): string[] {
  const red = [...bad].filter(([, result]) => isBad(result)).map(([name]) => name)
  const points = red.filter((name) => good.get(name)?.verdict === 'pass')
  const failed = red.filter((name) => bad.get(name)!.verdict !== 'skip')
  if (points.length === 0 && failed.length === 0) refuse(`${names[0]} passes: there is nothing to find`)
  if (points.length === 0) {
    const shown = `${failed.slice(0, 3).join(', ')}${failed.length > 3 ? '...' : ''}`
    refuse(
      `what is red in ${names[0]} does not pass in ${names[1]} either: ${shown}`,
      'name a good cell with --good',
    )
  }
  return points
}

/** Rejects with a KvitestError for a cell that there is not, that passes, or that nothing good can be compared with. */
export async function bisectCell(
  matrix: MatrixDeclaration,
  request: BisectRequest,
  { run, buildsBetween, say }: BisectMeans,
): Promise<Bisection> {
  const [first, good] = pairOf(matrix, request)
  const [ofBad, ofGood] = [await run(first, request.points), await run(good, request.points)]
  const points = pointsOf([cellName(first), cellName(good)], ofBad, ofGood)
  const tell = (cell: Coordinates, outcome: Outcome, why = '') =>
    say(`${outcome.padEnd(7)} ${cellName(cell)}${why ? `: ${why}` : ''}`)
  const reasonOf = (results: ReadonlyMap<string, PointResult>) => {
    const name = points.find((one) => isBad(results.get(one)))
    const { verdict, reason } = (name === undefined ? undefined : results.get(name)) ?? {}
    return name === undefined ? '' : `${name}: ${verdict}${reason ? ` (${reason})` : ''}`
  }
  tell(first, 'bad', reasonOf(ofBad))
  tell(good, 'good')
  const tryCell = async (cell: Coordinates): Promise<Outcome> => {
    try {
      const results = await run(cell, points)
      const outcome = outcomeOf(results, points)
      tell(cell, outcome, outcome === 'unknown' ? 'it does not have these points' : reasonOf(results))
      return outcome
    } catch (error) {
      if (!(error instanceof KvitestError)) throw error
      tell(cell, 'unknown', error.message)
      return 'unknown'
    }
  }
  const found = await bisectAxes(first, good, tryCell)
  const bisection: Bisection = {
    cell: request.cell,
    points,
    minimal: cellName(found.bad),
    skipped: [],
    unknown: found.unknown.map(cellName),
    verdict: 'not found',
  }
  if (!found.good) return bisection
  const { axis } = found.good
  let pair: [Coordinates, Coordinates] = [found.bad, found.good.cell]
  const [from, to] = [pair[1][axis], pair[0][axis]]
  const builds = from === undefined || to === undefined ? [] : await buildsBetween(axis, from, to)
  if (builds.length > 2) {
    const at = (build: string): Coordinates => ({ ...found.bad, [axis]: build })
    const between = await bisectBuilds(builds, (build) => tryCell(at(build)))
    bisection.skipped = between.unknown
    pair = [at(between.bad), at(between.good)]
  }
  const { isConfirmed, outcomes } = await confirmed(...pair, tryCell)
  return {
    ...bisection,
    minimal: cellName(pair[0]),
    nearest: cellName(pair[1]),
    axis,
    outcomes,
    verdict: isConfirmed ? 'found' : 'flaky',
  }
}

/** The command that runs one cell again, of the matrix or not. */
export function rerunCell(file: string, cell: string): string {
  return `npx kvitest bisect ${file} --run '${cell.replaceAll("'", `'\\''`)}'`
}

/** What was found, a line each; `rerun` is the command that runs one cell again. */
export function bisectionLines(found: Bisection, rerun: (cell: string) => string): string[] {
  const { minimal, nearest, axis, outcomes = [], skipped, unknown, verdict } = found
  const points = found.points.length > 3 ? `${found.points.length} points` : found.points.join(', ')
  if (nearest === undefined) {
    return [
      `${found.cell}: no good cell one axis away from ${minimal}`,
      ...unknown.map((cell) => `  says nothing: ${cell}`),
      `  rerun: ${rerun(minimal)}`,
    ]
  }
  const runs = `bad, good, bad run anew: ${outcomes.join(', ')}`
  return [
    verdict === 'found'
      ? `${found.cell}: it is the ${axis} that makes ${points} red`
      : `${found.cell}: flaky, so no verdict: ${runs}`,
    `  minimal failing cell: ${minimal}`,
    `    rerun: ${rerun(minimal)}`,
    `  nearest passing cell: ${nearest}`,
    `    rerun: ${rerun(nearest)}`,
    ...(skipped.length > 0 ? [`  in between and not to be tried: ${skipped.join(', ')}`] : []),
    ...(verdict === 'found' ? [`  confirmed: ${runs}`] : []),
  ]
}
