/** `kvitest bisect`: where a red cell of a matrix became red. */
import { globSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { cellVerdict } from '../matrix/account.ts'
import { cellAxes } from '../matrix/axes.ts'
import { bisectCell, bisectionLines, rerunCell } from '../matrix/bisect/bisect.ts'
import { CellRunner, realMeans } from '../matrix/bisect/means.ts'
import { collectMatrices } from '../matrix/collect.ts'
import type { MatrixDeclaration } from '../matrix/declare.ts'
import { KvitestError } from '../native/error.ts'

const usage = `usage: kvitest bisect [options] [FILE.matrix.ts] CELL
       kvitest bisect [FILE.matrix.ts] --run CELL

Flips one axis of a red cell after the other to what a good one has, until the cell has no more of its own than it takes
to be red; then, when that is a kernel of Debian, goes through the builds that the archive serves. CELL is
'HOST > TOOL' or 'HOST > TOOL > GUEST', as the test's name has it ('HOST > qemu-7.2 accelerator:tcg > GUEST'). What it finds is run three times more (bad, good, bad).

  --good CELL    what to compare with (default the matrix's baseline of that cell)
  --point NAME   look at this point only; may be given several times (default those that are red here and not there)
  --no-builds    not through the builds between two kernels
  --run CELL     run this one cell, on any host and with any guest, and show what it says
  --json         what was found as JSON; progress goes to stderr

The exit status is 0 when a pair of cells was found and confirmed, else 1.`

function refuse(detail: string, hint: string): never {
  throw new KvitestError('kvitest bisect', detail, { code: 'EINVAL', hint, infra: false })
}

function fileOf(given: string | undefined): string {
  if (given !== undefined) return given
  const exclude = (path: string) => /(^|\/)(node_modules|build)$/.test(path)
  const found = globSync('**/*.matrix.{ts,mts,js,mjs}', { exclude }).toSorted()
  if (found.length === 1) return found[0]!
  return refuse(found.length === 0 ? 'no *.matrix.ts below this directory' : found.join(', '), 'give one')
}

/** The matrix of a file that has the cell's tool. */
async function matrixOf(file: string, cell: string): Promise<MatrixDeclaration> {
  const all = await collectMatrices(file)
  const { tool } = cellAxes(cell)
  return all.find(({ tools }) => tools.some(({ name }) => name === tool)) ?? all[0]!
}

async function runOne(matrix: MatrixDeclaration, cell: string): Promise<number> {
  await using runner = new CellRunner(matrix)
  const results = await runner.run(cellAxes(cell))
  const { verdict, points } = cellVerdict(results.values())
  for (const [name, { verdict: one, reason }] of results)
    if (one !== 'pass') console.log(`${one} ${name}${reason ? `: ${reason}` : ''}`)
  const counts = Object.entries(points).map(([kind, count]) => `${count} ${kind}`)
  console.log(`${cell}: ${verdict} (${counts.join(', ')})`)
  return verdict === 'pass' || verdict === 'skip' ? 0 : 1
}

/** Returns the exit status. */
export async function bisect(argv: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: {
      good: { type: 'string' },
      point: { type: 'string', multiple: true },
      'no-builds': { type: 'boolean', default: false },
      run: { type: 'string' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    console.log(usage)
    return 0
  }
  const names = [...positionals]
  const cell = values.run ?? names.pop()
  if (cell === undefined || names.length > 1) {
    refuse(cell === undefined ? 'no cell' : `${positionals.length} arguments`, "give one: 'HOST > TOOL'")
  }
  const file = fileOf(names[0])
  const matrix = await matrixOf(file, cell)
  if (values.run !== undefined) return runOne(matrix, cell)
  await using runner = new CellRunner(matrix)
  const say = (line: string) => (values.json ? console.error(line) : console.log(line))
  const { good, point } = values
  const request = { cell, ...(good === undefined ? {} : { good }), ...(point ? { points: point } : {}) }
  const found = await bisectCell(matrix, request, realMeans(runner, say, !values['no-builds']))
  const rerun = (one: string) => rerunCell(file, one)
  if (values.json) {
    const commands = [found.minimal, ...(found.nearest ? [found.nearest] : [])].map((one) => [
      one,
      rerun(one),
    ])
    console.log(JSON.stringify({ ...found, rerun: Object.fromEntries(commands) }, null, 2))
  } else for (const line of bisectionLines(found, rerun)) console.log(line)
  return found.verdict === 'found' ? 0 : 1
}
