/** `kvitest plan`: a matrix's cells dealt out to the jobs of a CI system. */
import { existsSync, globSync } from 'node:fs'
import { basename } from 'node:path'
import { parseArgs } from 'node:util'
import { readCells } from '../matrix/cells-file.ts'
import { KvitestError } from '../native/error.ts'
import { pathPart } from '../report/guest-artifacts.ts'
import { DEFAULT_IMAGE, formats } from './plan/formats.ts'
import { planJobs, readDurations } from './plan/jobs.ts'

const usage = `usage: kvitest plan --format github|gitlab|k8s [options] [FILE.cells.json]

Prints the configuration of a CI system that runs the cells of a matrix in several jobs and puts their reports together
in a last one. FILE is what 'vitest -u' stored beside the matrix (default the only one below this directory).

  --format F     github: a workflow of GitHub Actions; gitlab: a pipeline; k8s: an indexed Job
  --shards N     jobs, 1 to 256 (default 4); never more than cells
  --report FILE  JSON report of a run, for the durations of its cells (default test-results/matrix/NAME.json if it is
                 there; without one, a cell counts by its points)
  --project P    vitest project of the matrix (default as in the report, else NAME; '' for none)
  --image I      container image of the jobs (default ${DEFAULT_IMAGE}; k8s needs one that has the project in it)`

/** Jobs of one matrix that GitHub takes. */
const maxShards = 256
const SUFFIX = '.cells.json'

function refuse(detail: string, hint: string): never {
  throw new KvitestError('kvitest plan', detail, { code: 'EINVAL', hint })
}

function cellsFile(given: readonly string[]): string {
  if (given.length > 1) refuse(`${given.length} files`, 'give one')
  if (given[0] !== undefined) {
    return given[0].endsWith(SUFFIX) ? given[0] : refuse(given[0], `give a file that ends in ${SUFFIX}`)
  }
  const found = globSync(`**/*${SUFFIX}`, {
    exclude: (path) => /(^|\/)(node_modules|build)$/.test(path),
  }).toSorted()
  if (found.length === 1) return found[0]!
  const what = found.length === 0 ? `no ${SUFFIX} below this directory` : found.join(', ')
  return refuse(what, `give one; a run of the matrix with vitest -u writes it`)
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
  const expected = readCells(path)
  if (expected.cells.length === 0) refuse(`${path} has no cells`, 'run the matrix with vitest -u')
  const name = pathPart(basename(path, SUFFIX))
  const usual = `test-results/matrix/${name}.json`
  const report = values.report ?? (existsSync(usual) ? usual : undefined)
  const known = report === undefined ? { project: name, durations: new Map() } : readDurations(report)
  const matrix = path.replace(SUFFIX, '.matrix.ts')
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
