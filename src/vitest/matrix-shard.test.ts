/** vitest's --shard deals out the cells of a matrix; the reports of its shards are one when they are merged. */
import { expect, test } from 'vitest'
import type { MatrixReport } from '../report/matrix/report.ts'
import { cells, entry, matrix } from './testing/matrix-files.ts'
import { TemporaryProject } from './testing/run-vitest.ts'

const PATIENCE = 300_000
const options = { test: { include: ['**/*.matrix.ts', '**/*.plain.ts'], maxWorkers: 2 } }
const tools = ['one', 'two', 'three']
const sh = tools.map((name) => `sh('${name}', 'echo ok 1 - a', 'echo not ok 2 - b', 'echo 1..2')`)
const ids = [...tools, 'other'].map((name) => `local > ${name}`)
const files = {
  'm.matrix.ts': matrix(
    'm',
    `tools: [${sh}, sh('other')], except: [{ tool: 'other', reason: 'wants hardware' }]`,
  ),
  'm.cells.json': cells(ids, Object.fromEntries(tools.map((name) => [name, ['a', 'b', 'the run']]))),
  'x.expect.yaml': `failures:\n${entry('m.matrix.ts > local > * > b')}\n${entry('m.matrix.ts > local > four > b')}\n`,
  'p.plain.ts': `import { test } from 'vitest'\ntest('plain', () => {})\n`,
}
const stale = 'nothing in this run answers to the entry'

test(
  'each shard has its cells, files that are no matrix are in one, and merged nothing is lost or doubled',
  async () => {
    using project = new TemporaryProject(files, options)
    const shards = []
    for (const shard of [1, 2, 3]) {
      const blob = ['--reporter=json', '--reporter=blob', `--outputFile.blob=blobs/${shard}.json`]
      const run = await project.run(`--shard=${shard}/3`, ...blob)
      expect(run.status, run.output).toBe(0)
      expect(run.output).not.toContain(stale)
      expect(run.output).not.toContain('did not run')
      shards.push(Object.keys(run.tests))
    }
    const cases = (tool: string) => ['a', 'b', 'the run', 'cell'].map((name) => `local ${tool} ${name}`)
    expect(shards.flat().toSorted()).toEqual(
      [
        'plain',
        'the cells are those that are stored',
        'local other cell',
        ...tools.flatMap(cases),
      ].toSorted(),
    )
    for (const shard of shards) expect(shard.filter((name) => name.endsWith(' cell')).length).toBeLessThan(3)

    const part: MatrixReport = JSON.parse(project.read('test-results/matrix/m.part.json'))
    expect(part.cells.filter(({ state }) => state === 'left out').length).toBeGreaterThan(0)
    const merged = await project.vitest('run', '--merge-reports=blobs')
    expect(merged.output).toContain('matrix m: 4 expected = 3 run + 1 skipped with a reason\n')
    // What no shard alone can know.
    expect(merged.output.match(new RegExp(stale, 'g'))).toHaveLength(1)
    expect(merged.output).toContain('x.expect.yaml:3: known')
    expect(merged.status).toBe(1)
    const whole: MatrixReport = JSON.parse(project.read('test-results/matrix/m.json'))
    expect(whole.cells.map(({ id, state }) => [id, state])).toEqual(
      ids.map((id, at) => [id, at < 3 ? 'run' : 'excepted']),
    )
  },
  PATIENCE,
)

test(
  'a shard that is not there when the reports are merged is cells that did not run',
  async () => {
    using project = new TemporaryProject(files, options)
    await project.run('--shard=1/2', '--reporter=json', '--reporter=blob', '--outputFile.blob=blobs/1.json')
    const merged = await project.vitest('run', '--merge-reports=blobs')
    expect(merged.output).toMatch(/matrix m: the cell local > \w+ did not run \(infra\)/)
    expect(merged.status).toBe(1)
  },
  PATIENCE,
)

test(
  'more shards than files of other kinds are refused, as vitest does',
  async () => {
    using project = new TemporaryProject({ 'p.plain.ts': files['p.plain.ts'] }, options)
    const { status, output } = await project.vitest('run', '--shard=2/2')
    expect(status).toBe(1)
    expect(output).toContain('--shard=2/2: there are 1 test files and no matrix')
    const none = await project.vitest('run', '--shard=1/2', 'nowhere')
    expect(none.status).toBe(1)
  },
  PATIENCE,
)
