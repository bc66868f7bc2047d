/** `kvitest plan`: a matrix's cells dealt out to the jobs of a CI system. */
import { existsSync, globSync } from 'node:fs'
import { basename, dirname, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { cellsPath, type ExpectedCells, readCells } from '../matrix/cells-file.ts'
import { collectMatrices } from '../matrix/collect.ts'
import { expandMatrix } from '../matrix/declare.ts'
import { KvitestError } from '../native/error.ts'
import { pathPart } from '../report/guest-artifacts.ts'
import { DEFAULT_IMAGE, formats } from './plan/formats.ts'
import { planJobs, readDurations } from './plan/jobs.ts'

const usage = `usage: kvitest plan --format github|gitlab|k8s [options] [FILE.cells.json|FILE.matrix.ts]

Prints the configuration of a CI system that runs the cells of a matrix in several jobs and puts their reports together
in a last one. FILE is what 'vitest -u' stored beside the matrix (default the only one below this directory), or the
matrix itself: one whose hosts are those that Debian serves today has no stored cells.

  --format F     github: a workflow of GitHub Actions; gitlab: a pipeline; k8s: an indexed Job
  --shards N     jobs, 1 to 256 (default 4); never more than cells
  --report FILE  JSON report of a run, for the durations of its cells (default test-results/matrix/NAME.json if it is
                 there; without one, a cell counts by its points)
  --project P    vitest project of the matrix (default as in the report, else NAME; '' for none)
  --image I      container image of the jobs (default ${DEFAULT_IMAGE}; k8s needs one that has the project in it)`

/** Jobs of one matrix that GitHub takes. */
const maxShards = 256
const SUFFIX = '.cells.json'
const MATRIX = /\.matrix\.[cm]?[jt]s$/

function refuse(detail: string, hint: string): never {
  throw new KvitestError('kvitest plan', detail, { code: 'EINVAL', hint })
}

function cellsFile(given: readonly string[]): string {
  if (given.length > 1) refuse(`${given.length} files`, 'give one')
  if (given[0] !== undefined) {
    const isOne = given[0].endsWith(SUFFIX) || MATRIX.test(given[0])
    return isOne ? given[0] : refuse(given[0], `give a file that ends in ${SUFFIX} or .matrix.ts`)
  }
  const found = globSync(`**/*${SUFFIX}`, {
    exclude: (path) => /(^|\/)(node_modules|build)$/.test(path),
  }).toSorted()
  if (found.length === 1) return found[0]!
  const what = found.length === 0 ? `no ${SUFFIX} below this directory` : found.join(', ')
  return refuse(what, `give one; a run of the matrix with vitest -u writes it`)
}

/** What the jobs have to run: as it is stored, or as the matrix says now. */
async function expectedOf(path: string): Promise<ExpectedCells> {
  if (!MATRIX.test(path)) {
    const expected = readCells(path)
    if (expected.cells.length === 0) refuse(`${path} has no cells`, 'run the matrix with vitest -u')
    return expected
  }
  const expected: ExpectedCells = { cells: [], points: {} }
  for (const matrix of await collectMatrices(path)) {
    const { pointsOf } = matrix
    expected.cells.push(...expandMatrix(matrix).map(({ id }) => id))
    const stored = pointsOf === undefined ? cellsPath(path) : resolve(dirname(path), pointsOf)
    Object.assign(expected.points, readCells(stored).points)
  }
  return expected
}

/** Returns the exit status. */
export async function plan(argv: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: {
      format: { type: 'string' },
      shards: { type: 'string', default: '4' },
      report: { type: 'string' },
      project: { type: 'string' },
      image: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    console.log(usage)
    return 0
  }
  const names = Object.keys(formats).join(', ')
  const format = Object.entries(formats).find(([name]) => name === values.format)
  if (!format)
    return refuse(values.format === undefined ? 'no --format' : `--format ${values.format}`, `give ${names}`)
  const shards = /^\d+$/.test(values.shards) ? Number(values.shards) : 0
  if (shards < 1 || shards > maxShards) refuse(`--shards ${values.shards}`, `give 1 to ${maxShards}`)
  if (format[0] === 'k8s' && values.image === undefined) {
    refuse('no --image', 'a pod has no checkout: give an image with the project in /kvitest')
  }

  const path = cellsFile(positionals)
  const expected = await expectedOf(path)
  const name = pathPart(basename(path, SUFFIX).replace(MATRIX, ''))
  const usual = `test-results/matrix/${name}.json`
  const report = values.report ?? (existsSync(usual) ? usual : undefined)
  const known = report === undefined ? { project: name, durations: new Map() } : readDurations(report)
  const matrix = MATRIX.test(path) ? path : path.replace(SUFFIX, '.matrix.ts')
  const planned = planJobs({
    name,
    project: values.project ?? known.project,
    file: existsSync(matrix) ? matrix : undefined,
    expected,
    durations: known.durations,
    shards,
  })
  process.stdout.write(format[1](planned, { image: values.image ?? DEFAULT_IMAGE }))
  return 0
}
