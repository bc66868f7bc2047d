/** Deals a matrix's cells out to jobs that take about the same time. */
import { readFileSync } from 'node:fs'
import { CELLS_TEST, type ExpectedCells, pointsKey } from '../../matrix/cells-file.ts'
import { KvitestError } from '../../native/error.ts'
import { MATRIX_FORMAT, type MatrixReport } from '../../report/matrix/report.ts'
import { blocksPattern, shellWord } from '../../report/rerun.ts'

/** Of a point, where no run has said how long any takes. */
const GUESS_MS = 1000

/** What a plan is made of. */
export interface PlanInput {
  /** For names: of the matrix's file. */
  name: string
  /** vitest project; empty without projects. */
  project: string
  /** Of the matrix, relative to the directory that the jobs run in; absent: vitest looks through the project. */
  file: string | undefined
  expected: ExpectedCells
  /** Milliseconds of each cell, of those that a report knows. */
  durations: ReadonlyMap<string, number>
  shards: number
}

export interface PlannedJob {
  /** From 1. */
  shard: number
  cells: string[]
  /** Milliseconds, as far as is known. */
  estimate: number
  /** Where it leaves its report, relative to the directory it runs in. */
  blob: string
  /** For vitest's -t. */
  pattern: string
  /** One line for a POSIX shell. */
  command: string
}

export interface Plan {
  name: string
  jobs: PlannedJob[]
  /** Directory of the jobs' reports. */
  blobs: string
  /** One line for a POSIX shell, when all reports are there. */
  merge: string
}

/** The same input, the same plan: longest first, each to the job that has least. */
export function planJobs({ name, project, file, expected, durations, shards }: PlanInput): Plan {
  const estimates = estimate(expected, durations)
  const order = [...estimates].toSorted(([a, x], [b, y]) => y - x || (a < b ? -1 : 1))
  const dealt = Array.from({ length: Math.min(shards, expected.cells.length) }, () => ({
    cells: [] as string[],
    estimate: 0,
  }))
  for (const [id, milliseconds] of order) {
    const least = dealt.reduce((a, b) =>
      b.estimate < a.estimate || (b.estimate === a.estimate && b.cells.length < a.cells.length) ? b : a,
    )
    least.cells.push(id)
    least.estimate += milliseconds
  }
  const blobs = `test-results/blobs/${name}`
  const chosen = project === '' ? '' : ` --project ${shellWord(project)}`
  return {
    name,
    blobs,
    merge: `npx vitest run${chosen} --merge-reports=${shellWord(blobs)}`,
    jobs: dealt.map(({ cells, estimate }, at) => {
      const blob = `${blobs}/${at + 1}.json`
      // As the matrix has them: those of a host after each other.
      const own = expected.cells.filter((id) => cells.includes(id))
      // No cell's, so one of them has to have it.
      const pattern = blocksPattern(own, at === 0 ? CELLS_TEST : undefined)
      // Without a label of its own, a report of the same file takes the place of another job's when they are merged.
      const label = `VITEST_BLOB_LABEL=${shellWord(`${name}-${at + 1}`)}`
      const words = ['npx vitest run', ...(file === undefined ? [] : [shellWord(file)])]
      return {
        shard: at + 1,
        cells: own,
        estimate: Math.round(estimate),
        blob,
        pattern,
        command: `${label} ${words.join(' ')}${chosen} -t ${shellWord(pattern)} --reporter=blob --outputFile.blob=${shellWord(blob)}`,
      }
    }),
  }
}

/** What no report knows is taken to need, for each of its points, what those of the known cells needed. */
function estimate(
  { cells, points }: ExpectedCells,
  durations: ReadonlyMap<string, number>,
): Map<string, number> {
  // Its last test is one too.
  const sizeOf = (id: string) => (points[pointsKey(id)]?.length ?? 0) + 1
  const known = cells.filter((id) => durations.has(id))
  const time = known.reduce((sum, id) => sum + durations.get(id)!, 0)
  const size = known.reduce((sum, id) => sum + sizeOf(id), 0)
  const each = size === 0 ? GUESS_MS : time / size
  return new Map(cells.map((id) => [id, durations.get(id) ?? each * sizeOf(id)]))
}

/** What the plan needs of a report of the matrix. Throws a KvitestError for a file that is none. */
export function readDurations(path: string): { project: string; durations: Map<string, number> } {
  let report: Partial<MatrixReport> | null = null
  try {
    report = JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== undefined) throw cannotRead(path, error as Error)
  }
  if (report?.format !== MATRIX_FORMAT || !Array.isArray(report.cells)) {
    throw cannotRead(path, new Error(`it is no report of the format ${MATRIX_FORMAT}`))
  }
  const ran = report.cells.filter(({ state, duration }) => state === 'run' && Number.isFinite(duration))
  return {
    project: String(report.project ?? ''),
    durations: new Map(ran.map(({ id, duration }) => [id, duration])),
  }
}

function cannotRead(path: string, error: Error): KvitestError {
  return new KvitestError('kvitest plan', `${path}: ${error.message}`, {
    code: (error as NodeJS.ErrnoException).code ?? 'EBADMSG',
    hint: 'give --report FILE.json of a run of the matrix',
  })
}
