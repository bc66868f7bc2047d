/** What a run of a matrix came to, cell by cell and point by point: the JSON file, and what the page is made of. */
import {
  type CellCount,
  type CellRecord,
  cellVerdict,
  compareCells,
  countCells,
} from '../../matrix/account.ts'
import { type Coordinates, cellAxes } from '../../matrix/axes.ts'
import type { PointResult } from '../../matrix/tool.ts'

/** Changes with every change of the file that its readers must know of. */
export const MATRIX_FORMAT = 'kvitest-matrix-2'

/** One point of a cell. */
export interface ReportedPoint {
  name: string
  verdict: PointResult['verdict']
  /** One line; empty where there is none. */
  reason: string
  /** Milliseconds. */
  duration: number
  /** What the tool and the host's kernel said, bounded. */
  output: string
  /** What the guest saw, value by key; of a part of a fingerprint. */
  fingerprint?: Record<string, string>
  /** It failed the run: nothing expected what it came to. */
  isRed: boolean
  /** Of a red one what the run said beyond verdict and reason: an unexpected pass, an undeclared skip. */
  problems: string[]
  /** The entry that expected its failure. */
  expected?: { reason: string; link: string; source: string; expires: string }
  /** What the baseline's cell came to, where that differs. */
  before?: { verdict: PointResult['verdict']; reason: string }
  /** The command that runs it again; absent for what passed. */
  rerun?: string
}

/** `left out`: by a filter of the run. `lost`: it should have run and did not, which is infra. */
export type CellState = 'run' | 'excepted' | 'left out' | 'lost'

export interface ReportedCell
  extends Coordinates,
    Pick<CellRecord, 'id' | 'toolVersion' | 'toolHash' | 'hostKernel' | 'hostAccelerator' | 'baseline'> {
  state: CellState
  /** Absent for a cell that did not run. */
  verdict?: PointResult['verdict']
  /** Of its verdict, or why it was not run. */
  reason: string
  /** Milliseconds of all its points; the first of a host waits for the lab, the first of a tool for the tool. */
  duration: number
  /** Points by verdict. */
  counts: CellRecord['points']
  /** Points that failed the run, and that failed as expected. */
  red: number
  known: number
  /** `-name: pass`, `+name: fail (reason)` */
  differences: string[]
  rerun: string
  points: ReportedPoint[]
}

export interface MatrixReport {
  format: typeof MATRIX_FORMAT
  kvitest: string
  matrix: string
  /** Of the matrix, relative to the root. */
  file: string
  project: string
  /** ISO 8601. */
  started: string
  /** Some of its cells or points were left out by a filter, or the run was interrupted. */
  isPart: boolean
  count: CellCount & { missing: number }
  /** Faults that are no point's. */
  problems: string[]
  cells: ReportedCell[]
}

/** One cell as a run left it. */
export interface RanCell {
  record?: CellRecord | undefined
  rerun: string
  points: Omit<ReportedPoint, 'before'>[]
}

export interface RanMatrix extends Omit<MatrixReport, 'format' | 'count' | 'cells'> {
  /** Ids of all its cells, in the order of the declaration. */
  expected: readonly string[]
  ran: ReadonlyMap<string, RanCell>
}

export function matrixReport({ expected, ran, ...rest }: RanMatrix): MatrixReport {
  const records = expected.flatMap((id) => ran.get(id)?.record ?? [])
  const count = countCells(records, expected.length)
  return {
    format: MATRIX_FORMAT,
    ...rest,
    count: { ...count, missing: count.expected - count.run - count.excepted },
    cells: expected.map((id) => reportedCell(id, ran, rest.isPart)),
  }
}

function reportedCell(id: string, ran: ReadonlyMap<string, RanCell>, isPart: boolean): ReportedCell {
  const { record, rerun = '', points = [] } = ran.get(id) ?? {}
  const { toolVersion, toolHash, hostKernel, hostAccelerator, baseline, excepted } = record ?? {}
  const known = { toolVersion, toolHash, hostKernel, hostAccelerator, baseline }
  const old = resultsOf(baseline === undefined ? undefined : ran.get(baseline))
  const state =
    excepted !== undefined ? 'excepted' : record || points.length > 0 ? 'run' : isPart ? 'left out' : 'lost'
  const end = state === 'run' ? cellVerdict(points) : undefined
  return {
    id,
    ...cellAxes(id),
    ...(Object.fromEntries(Object.entries(known).filter(([, value]) => value !== undefined)) as object),
    state,
    ...(end ? { verdict: end.verdict } : {}),
    reason: end?.reason ?? excepted ?? (state === 'lost' ? 'it did not run (infra)' : 'left out by the run'),
    duration: points.reduce((sum, one) => sum + one.duration, 0),
    counts: end?.points ?? {},
    red: points.filter(({ isRed }) => isRed).length,
    known: points.filter((point) => point.expected !== undefined).length,
    differences: compareCells(old, resultsOf(ran.get(id))),
    rerun,
    points: points.map((point) => {
      const was = old.get(point.name)
      const differs = was !== undefined && was.verdict !== point.verdict
      return differs ? { ...point, before: { verdict: was.verdict, reason: was.reason ?? '' } } : point
    }),
  }
}

function resultsOf(cell: RanCell | undefined): Map<string, PointResult> {
  return new Map((cell?.points ?? []).map((point) => [point.name, point]))
}
