/**
 * suites/compat, whole: how long it takes, each cell, how much of it labs take to start, and what its cells would take one
 * after the other, each in a fresh lab of its own. The last is measured on one cell of each tool (and guest), on the
 * baseline's host, and added up for all.
 * `npm run bench -- compat [--report test-results/matrix/compat.json] [--no-alone]`; with --report no whole run is made.
 */
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { KvitestError } from '../src/native/error.ts'
import type { MatrixReport, ReportedCell } from '../src/report/matrix/report.ts'
import { printTable, type Row, timed } from './table.ts'

const root = resolve(import.meta.dirname, '..')
const written = join(root, 'test-results/matrix/compat.json')

/** Its standard error: with KVITEST_LOG=events what labs do, a line each. */
function vitest(args: string[], env: NodeJS.ProcessEnv = {}): Promise<string> {
  const program = join(root, 'node_modules/vitest/vitest.mjs')
  const options = {
    cwd: root,
    env: { ...process.env, NO_COLOR: '1', KVITEST_LOG: 'events', ...env },
    maxBuffer: 1 << 28,
  }
  return new Promise((done) => {
    // A red cell is a result like another here.
    execFile(process.execPath, [program, 'run', '--project', 'compat', ...args], options, (_, __, stderr) =>
      done(stderr),
    )
  })
}

async function read(path: string): Promise<MatrixReport> {
  return JSON.parse(
    await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
      throw new KvitestError('bench of suites/compat', `${path}: ${error.code}`, {
        hint: 'npx vitest run --project compat writes it',
      })
    }),
  )
}

/** Seconds that labs took to start, as the run said. */
function labStarts(said: string): number[] {
  return [...said.matchAll(/(?:started|restored).*?\bin (\d+(?:\.\d+)?) s/g)].map((match) => Number(match[1]))
}

function kindOf({ tool, guest }: ReportedCell): string {
  return guest === undefined ? tool : `${tool}, guest ${guest}`
}

const seconds = (cell: ReportedCell) => cell.duration / 1000

export async function bench(argv: string[]): Promise<void> {
  const { values } = parseArgs({
    args: argv,
    options: { report: { type: 'string' }, alone: { type: 'boolean', default: true } },
    allowNegative: true,
  })
  let whole: number | undefined
  let starts: number[] = []
  if (values.report === undefined) {
    const { value, ms } = await timed(() => vitest([]))
    whole = ms / 1000
    starts = labStarts(value)
  }
  const report = await read(values.report ?? written)
  const cells = report.cells.filter(({ state }) => state === 'run')
  const points = cells.reduce((sum, cell) => sum + cell.points.length, 0)
  const kinds = Map.groupBy(cells, kindOf)
  const rows: Row[] = [
    ...(whole === undefined ? [] : [{ what: 'the whole command', values: [whole], unit: 's' }]),
    ...(starts.length > 0 ? [{ what: 'start of a lab', values: starts, unit: 's' }] : []),
    { what: 'a cell', values: cells.map(seconds), unit: 's' },
    ...[...kinds].map(([what, list]) => ({ what, values: list.map(seconds), unit: 's' })),
  ]
  printTable(`suites/compat: ${cells.length} cells, ${points} results`, rows)
  const inCells = cells.reduce((sum, cell) => sum + seconds(cell), 0)
  const inStarts = starts.reduce((sum, one) => sum + one, 0)
  console.log(`\nsum of the cells: ${inCells.toFixed(0)} s; the first cell of a host waits for its lab`)
  if (starts.length > 0) {
    console.log(
      `labs started: ${starts.length}, in ${inStarts.toFixed(0)} s together: ${((100 * inStarts) / inCells).toFixed(0)} % of that`,
    )
  }
  if (values.alone) await alone(kinds, whole)
}

async function alone(kinds: Map<string, ReportedCell[]>, whole: number | undefined): Promise<void> {
  const rows: Row[] = []
  let all = 0
  for (const [what, list] of kinds) {
    // Of the baseline's host where there is one: another one would have the baseline's cell run too, to be compared.
    const cell = list.find(({ baseline }) => baseline === undefined) ?? list[0]!
    const pattern = `^${cell.id.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')} > `
    const { ms } = await timed(() => vitest(['-t', pattern], { KVITEST_SAVED_LABS: '0' }))
    rows.push({ what: `${what}, in a fresh lab`, values: [ms / 1000], unit: 's' })
    all += (ms / 1000) * list.length
  }
  printTable('one cell of each tool, alone, the whole command', rows)
  console.log(`\nall cells so, one after the other: ${all.toFixed(0)} s`)
  if (whole !== undefined)
    console.log(`the whole run takes ${whole.toFixed(0)} s: ${(all / whole).toFixed(1)} times faster`)
}
