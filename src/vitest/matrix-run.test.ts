/** Matrices through real vitest processes: their tools are shell scripts on this machine, which drive no KVM. */
import { spawnSync } from 'node:child_process'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { planJobs } from '../cli/plan/jobs.ts'
import type { MatrixReport } from '../report/matrix/report.ts'
import { cells, entry, matrix } from './testing/matrix-files.ts'
import { TemporaryProject, type VitestRun } from './testing/run-vitest.ts'

const ROOT = resolve(import.meta.dirname, '../..')
const SCHEMA = join(ROOT, 'src/report/junit.xsd')
const PATIENCE = 300_000

const good = `sh('good', 'echo ok 1 - a', 'echo ok 2 - b', 'echo 1..2')`
const goodCells = cells(['local > good'], { good: ['a', 'b', 'the run'] })

/** One folder a case, all in one run. */
const FILES = {
  'good/m.matrix.ts': matrix('good', `tools: [${good}]`),
  'good/m.cells.json': goodCells,
  'lost/m.matrix.ts': matrix('lost', `tools: [sh('good', 'echo ok 1 - a', 'echo 1..1')]`),
  'lost/m.cells.json': goodCells,
  'lost/x.expect.yaml': `failures:\n${entry('m.matrix.ts > local > good > b')}\n`,
  'found/m.matrix.ts': matrix(
    'found',
    `tools: [sh('good', 'for i in a b c; do echo ok - $i; done', 'echo 1..3')]`,
  ),
  'found/m.cells.json': goodCells,
  'empty/m.matrix.ts': matrix(
    'empty',
    `tools: [{ ...${good}, prepare: async () => ({ ...(await ${good}.prepare()), all: async () => new Map() }) }]`,
  ),
  'empty/m.cells.json': cells(['local > good'], { good: [] }),
  'absent/m.matrix.ts': matrix('absent', `tools: [absentTool('good')]`),
  'absent/m.cells.json': goodCells,
  'absent/x.expect.yaml': `failures:\n${entry('m.matrix.ts > local > *')}\n`,
  'cells/m.matrix.ts': matrix('cells', `tools: [${good}]`),
  'cells/m.cells.json': cells(['local > good', 'lab:x > good'], { good: ['a', 'b', 'the run'] }),
  'skips/m.matrix.ts': matrix(
    'skips',
    `tools: [sh('good', 'echo "ok 1 - a # SKIP too old"', 'echo "ok 2 - b # SKIP too new"', 'echo 1..2')]`,
  ),
  'skips/m.cells.json': goodCells,
  'skips/x.expect.yaml': `skips:\n- { test: 'm.matrix.ts > local > good > a', reason: 'it is old' }\n`,
  'known/m.matrix.ts': matrix(
    'known',
    `tools: [sh('good', 'echo not ok 1 - a', 'echo ok 2 - b', 'echo 1..2')]`,
  ),
  'known/m.cells.json': goodCells,
  'known/x.expect.yaml': `failures:\n${entry('m.matrix.ts > local > good > a')}\n${entry('m.matrix.ts > local > good > b')}\n`,
  'except/m.matrix.ts': matrix(
    'except',
    `tools: [${good}, sh('other')], except: [{ tool: 'other', reason: 'wants hardware' }]`,
  ),
  'except/m.cells.json': cells(['local > good', 'local > other'], { good: ['a', 'b', 'the run'] }),
}

/** A tool that says how it was asked to start its guest. */
const emulator = `{ ...sh('emu'), takesGuest: true, accelerators: ['kvm', 'tcg'], refusesMachine: () => undefined,
  prepare: (guest, { accelerator, machine }) => sh('emu', \`echo ok 1 - \${accelerator} \${machine.cpus ?? 1} \${guest}\`, 'echo 1..1').prepare() }`
const axes = {
  'axes/m.matrix.ts': matrix(
    'axes',
    `tools: [${good}, ${emulator}], guests: ['g'], accelerators: ['kvm', 'tcg'], machines: { default: {}, smp: { cpus: 2 } },
  only: [{ accelerator: 'kvm' }, { machine: 'smp' }], baseline: { accelerator: 'kvm' }`,
  ),
  'axes/m.cells.json': cells(
    [
      'local > good',
      'local > emu > g',
      'local > emu machine:smp > g',
      'local > emu accelerator:tcg machine:smp > g',
    ],
    {
      good: ['a', 'b', 'the run'],
      'emu > g': ['kvm 1 g', 'the run'],
      'emu machine:smp > g': ['kvm 2 g', 'the run'],
      'emu accelerator:tcg machine:smp > g': ['tcg 2 g', 'the run'],
    },
  ),
}

/** `bad` is red for one point that `good` passes, `known` for one that is expected. */
const bisected = {
  'bisected/m.matrix.ts': matrix(
    'bisected',
    `tools: [${good}, sh('bad', 'echo not ok 1 - a', 'echo ok 2 - b', 'echo 1..2'), sh('known', 'echo not ok 1 - a', 'echo ok 2 - b', 'echo 1..2')],
  baseline: { tool: 'good' }, bisect: true`,
  ),
  'bisected/m.cells.json': cells(
    ['local > good', 'local > bad', 'local > known'],
    Object.fromEntries(['good', 'bad', 'known'].map((name) => [name, ['a', 'b', 'the run']])),
  ),
  'bisected/x.expect.yaml': `failures:\n${entry('m.matrix.ts > local > known > a')}\n`,
}

const borrowed = {
  'points/m.matrix.ts': matrix('points', `tools: [${good}], pointsOf: '../good/m.cells.json'`),
  'strange/m.matrix.ts': matrix(
    'strange',
    `tools: [sh('other', 'echo ok 1 - a', 'echo 1..1')], pointsOf: '../good/m.cells.json'`,
  ),
}

const skipped = matrix('skipped', `tools: [${good}]`)
  .replace('import { defineMatrix', "import { describe } from 'vitest'\nimport { defineMatrix")
  .replace('defineMatrix({ name', "describe.skip('later', () => defineMatrix({ name")
  .replace(/\}\)\n$/, '}))\n')

const options = { test: { include: ['**/*.matrix.ts'], maxWorkers: 2 } }

describe('a run of matrices', () => {
  let project: TemporaryProject
  let run: VitestRun
  beforeAll(async () => {
    project = new TemporaryProject(
      {
        ...FILES,
        ...axes,
        ...bisected,
        ...borrowed,
        'skipped/m.matrix.ts': skipped,
        'skipped/m.cells.json': goodCells,
      },
      options,
    )
    run = await project.run()
  }, PATIENCE)
  afterAll(() => project[Symbol.dispose]())

  const outcome = (folder: string) => {
    const found = Object.entries(run.files[`${folder}/m.matrix.ts`]!)
    return Object.fromEntries(found.map(([name, { status }]) => [name, status]))
  }
  const failure = (folder: string, name: string) =>
    run.files[`${folder}/m.matrix.ts`]![name]!.failureMessages.join('\n')

  test('each point of each cell is a test', () => {
    expect(run.status).toBe(1)
    expect(outcome('good')).toEqual({
      'the cells are those that are stored': 'passed',
      'local good a': 'passed',
      'local good b': 'passed',
      'local good the run': 'passed',
      'local good cell': 'passed',
    })
  })

  test('a point that the tool does not report is infra, which no entry excuses', () => {
    expect(outcome('lost')).toMatchObject({ 'local good a': 'passed', 'local good b': 'failed' })
    expect(failure('lost', 'local good b')).toContain('infra: the tool ran and did not report b')
    expect(failure('lost', 'local good cell')).toContain('points of good: -b; write them with vitest -u')
  })

  test('a point that nobody expected fails its cell', () => {
    expect(outcome('found')).toMatchObject({ 'local good a': 'passed', 'local good cell': 'failed' })
    expect(failure('found', 'local good cell')).toContain('points of good: +c')
  })

  test('a cell without a point is infra', () => {
    expect(failure('empty', 'local good cell')).toContain('infra: the tool has no point')
  })

  test('a tool that cannot be had is infra in each point, which no entry excuses', () => {
    expect(outcome('absent')).toMatchObject({ 'local good a': 'failed', 'local good cell': 'failed' })
    expect(failure('absent', 'local good a')).toContain('infra: the archive has it no more')
  })

  test('cells other than the stored ones fail the file', () => {
    expect(failure('cells', 'the cells are those that are stored')).toContain('cells of cells: -lab:x > good')
    expect(outcome('cells')).toMatchObject({ 'local good a': 'passed' })
  })

  test('a matrix may have its points from another one, and not fewer than its tools want', () => {
    expect(new Set(Object.values(outcome('points')))).toEqual(new Set(['passed']))
    expect(Object.keys(outcome('points'))).toContain('local good b')
    expect(failure('strange', 'the cells are those that are stored')).toContain(
      'infra: ../good/m.cells.json has no points of other',
    )
  })

  test('a skip is one only where it is declared', () => {
    expect(outcome('skips')).toMatchObject({ 'local good a': 'skipped', 'local good b': 'failed' })
    expect(failure('skips', 'local good b')).toContain('skipped (too new), and nothing declares that it may')
  })

  test('an expected failure passes, an unexpected pass fails', () => {
    expect(outcome('known')).toMatchObject({ 'local good a': 'passed', 'local good b': 'failed' })
    expect(failure('known', 'local good b')).toContain('unexpected pass: known/x.expect.yaml:3')
  })

  test('a cell that is excepted stays in the count, with its reason', () => {
    expect(outcome('except')).toMatchObject({ 'local other cell': 'skipped' })
    expect(run.output).toContain('matrix except: 2 expected = 1 run + 1 skipped with a reason\n')
    expect(run.output).toContain('tool other: 1 expected = 0 run + 1 skipped with a reason\n')
  })

  test('the accelerator and the machine are in the names of cells and points, and reach the tool', () => {
    expect(Object.keys(outcome('axes')).filter((name) => /[12] g$/.test(name))).toEqual([
      'local emu g kvm 1 g',
      'local emu machine:smp g kvm 2 g',
      'local emu accelerator:tcg machine:smp g tcg 2 g',
    ])
    expect(new Set(Object.values(outcome('axes')))).toEqual(new Set(['passed']))
    expect(run.output).toContain('accelerator tcg: 1 expected = 1 run + 0 skipped with a reason; 1 pass\n')
    expect(run.output).toContain('machine smp: 2 expected = 2 run + 0 skipped with a reason; 2 pass\n')
    const { cells: all }: MatrixReport = JSON.parse(project.read('test-results/matrix/axes.json'))
    expect(all.at(-1)).toMatchObject({
      tool: 'emu',
      guest: 'g',
      accelerator: 'tcg',
      machine: 'smp',
      baseline: 'local > emu machine:smp > g',
      rerun: "npx vitest run axes/m.matrix.ts -t '^local > emu accelerator:tcg machine:smp > g > '",
    })
    expect(all[1]).not.toHaveProperty('machine')
    expect(project.read('test-results/matrix/axes.html')).toContain(
      'emu<small>guest g</small><small>machine smp</small>',
    )
    const properties = run.junit
      .split('<testsuite ')
      .find((one) => one.includes('emu accelerator:tcg machine:smp > g"'))
    expect(properties).toContain('name="cell.accelerator" value="tcg"')
    expect(properties).toContain('name="cell.machine" value="smp"')
  })

  test('a red cell is traced at the end of the run where the matrix wants that', () => {
    const lines = run.output.split('\n').filter((line) => /it is the .* red|confirmed/.test(line))
    expect(lines).toEqual([
      '    kvitest  local > bad: it is the tool that makes a red',
      '    kvitest    confirmed: bad, good, bad run anew: bad, good, bad',
    ])
  })

  test('a cell that did not run fails the run', () => {
    const problem = 'matrix skipped: the cell local > good did not run (infra)'
    expect(run.output).toContain(problem)
    expect(run.output.match(/the cell .* did not run/g)).toHaveLength(1)
    expect(run.junit).toContain(problem)
  })

  test('the JUnit file has a suite for each cell, with its axes', () => {
    const file = join(project.folder, 'test-results/junit.xml')
    const { status, stderr } = spawnSync('xmllint', ['--noout', '--schema', SCHEMA, file], {
      encoding: 'utf8',
    })
    expect(status, stderr).toBe(0)
    const suite = /<testsuite name="good\/m\.matrix\.ts > local > good".*?<\/testsuite>/s.exec(run.junit)?.[0]
    const property = (name: string) => new RegExp(`name="${name}" value="([^"]*)"`).exec(suite ?? '')?.[1]
    expect(property('cell.tool')).toBe('good')
    expect(property('cell.tool.version')).toBe('1.0')
    expect(property('cell.tool.sha256')).toMatch(/^[0-9a-f]{64}$/)
    expect(property('cell.host')).toBe('local')
    expect(property('cell.verdict')).toBe('pass')
    expect(suite).toMatch(/<testcase [^>]*name="local > good > a"/)
  })
})

describe('the reports of a matrix', () => {
  const said = '<script>alert(1)</script>'
  const files = {
    'm.matrix.ts': matrix(
      'old & new',
      `tools: [sh('good', 'echo ok 1 - a', 'echo "# heard: ${said}"', 'echo not ok 2 - b', 'echo 1..2'), sh('bad', 'echo ok 1 - a', 'echo not ok 2 - b', 'echo 1..2'), absentTool('absent'), sh('other')], except: [{ tool: 'other', reason: 'wants hardware' }]`,
    ),
    'm.cells.json': cells(['local > good', 'local > bad', 'local > absent', 'local > other'], {
      good: ['a', 'b', 'the run'],
      bad: ['a', 'b', 'the run'],
      absent: ['a'],
    }),
    'x.expect.yaml': `failures:\n${entry('m.matrix.ts > local > good > b')}\n`,
  }
  const seen = ({ cells: all }: MatrixReport) =>
    all.map(({ id, state, verdict, red, points }) => [
      id,
      state,
      verdict,
      red,
      points.map(({ name }) => name).join(),
    ])
  const wholeRun = [
    ['local > good', 'run', 'fail', 0, 'a,b,the run'],
    ['local > bad', 'run', 'fail', 1, 'a,b,the run'],
    ['local > absent', 'run', 'infra', 2, 'a,cell'],
    ['local > other', 'excepted', undefined, 0, ''],
  ]

  test(
    'say of each cell and point what it came to, and are named at the end of the run',
    async () => {
      using project = new TemporaryProject(files, options)
      const { output } = await project.run()
      const report: MatrixReport = JSON.parse(project.read('test-results/matrix/old-new.json'))
      const page = project.read('test-results/matrix/old-new.html')

      expect(output).toContain('    kvitest    report: test-results/matrix/old-new.html\n')
      expect(seen(report)).toEqual(wholeRun)
      expect(report).toMatchObject({ matrix: 'old & new', file: 'm.matrix.ts', isPart: false, problems: [] })
      expect(report.count).toEqual({ expected: 4, run: 3, excepted: 1, missing: 0 })
      const [good, bad, absent] = report.cells
      expect(good!.points[1]).toMatchObject({ verdict: 'fail', isRed: false, expected: { reason: 'known' } })
      expect(good!.points[2]!.output).toContain(said)
      expect(good).toMatchObject({
        toolVersion: '1.0',
        rerun: `npx vitest run m.matrix.ts -t '^local > good > '`,
      })
      expect(bad!.points[1]).toMatchObject({ verdict: 'fail', isRed: true, problems: [] })
      expect(absent!.reason).toContain('the archive has it no more')
      expect(page).toContain('&lt;script&gt;alert(1)&lt;/script&gt;')
      expect(page).not.toContain('<script>')

      // Its own command runs that cell, and leaves the report of the whole where it is.
      const again = /-t '(.*)'$/.exec(bad!.rerun)![1]!
      await project.vitest('run', '-t', again)
      const part: MatrixReport = JSON.parse(project.read('test-results/matrix/old-new.part.json'))
      expect(seen(part)).toEqual([
        ['local > good', 'left out', undefined, 0, ''],
        wholeRun[1],
        ['local > absent', 'left out', undefined, 0, ''],
        wholeRun[3],
      ])
      expect(seen(JSON.parse(project.read('test-results/matrix/old-new.json')))).toEqual(wholeRun)
    },
    PATIENCE,
  )

  test(
    'of the jobs of a plan are one when they are merged',
    async () => {
      using project = new TemporaryProject(files, options)
      const expected = JSON.parse(files['m.cells.json'])
      const input = { name: 'm', project: '', file: 'm.matrix.ts', expected, durations: new Map(), shards: 2 }
      const { jobs, merge } = planJobs(input)
      const sh = (command: string) =>
        spawnSync('/bin/sh', ['-c', command], {
          cwd: project.folder,
          encoding: 'utf8',
          env: {
            ...process.env,
            NO_COLOR: '1',
            PATH: `${project.folder}/node_modules/.bin:${process.env.PATH}`,
          },
        })
      // The second has nothing red.
      expect(jobs.map(({ command }) => sh(command).status)).toEqual([1, 0])
      const merged = sh(merge)

      expect(merged.status).toBe(1)
      expect(merged.stdout).toContain('matrix old & new: 4 expected = 3 run + 1 skipped with a reason\n')
      expect(merged.stdout.match(/matrix old & new/g)).toHaveLength(1)
      expect(merged.stdout).not.toContain('did not run')
      const cases = [
        ...project.read('test-results/junit.xml').matchAll(/<testcase [^>]*name="([^"]*)"/g),
      ].map((one) => one[1])
      expect(cases.filter((name) => name === 'local > good > a')).toHaveLength(1)
      expect(cases.filter((name) => name === 'the cells are those that are stored')).toHaveLength(1)
      expect(seen(JSON.parse(project.read('test-results/matrix/old-new.json')))).toEqual(wholeRun)
    },
    PATIENCE,
  )
})

describe('the axes of a cell', () => {
  test(
    'are tags, which pick cells',
    async () => {
      using project = new TemporaryProject(axes, options)
      const of = async (filter: string) => {
        const run = await project.run('--tags-filter', filter)
        const tests = Object.entries(run.tests).filter(([, { status }]) => status === 'passed')
        return [
          run.status,
          ...new Set(tests.map(([name]) => name.replace(/ g .*| a$| b$| the run$| cell$/, ''))),
        ]
      }
      expect(await of('machine:smp && !accelerator:tcg')).toEqual([0, 'local emu machine:smp'])
      expect(await of('tool:go* or (guest:g and accelerator:tcg)')).toEqual([
        0,
        'local good',
        'local emu accelerator:tcg machine:smp',
      ])
      const wrong = await project.run('--tags-filter', 'machine:snp')
      expect(wrong.status).toBe(1)
      expect(wrong.output).toContain('"machine:snp" is not defined')
    },
    PATIENCE,
  )
})

describe('a red cell', () => {
  // Two tools with the same points, on the one host that needs no lab.
  const file = matrix(
    'm',
    `tools: [sh('good', 'echo ok 1 - a', 'echo ok 2 - b', 'echo 1..2'), { ...sh('good', 'echo not ok 1 - a', 'echo ok 2 - b', 'echo 1..2'), name: 'bad' }]`,
  )

  test(
    'is traced by kvitest bisect to the tool, bad and good and bad once more',
    async () => {
      using project = new TemporaryProject({ 'm.matrix.ts': file }, options)
      const kvitest = (...argv: string[]) =>
        spawnSync(join(ROOT, 'scripts/kvitest'), ['bisect', 'm.matrix.ts', ...argv], {
          cwd: project.folder,
          encoding: 'utf8',
        })
      const found = kvitest('--json', 'local > bad', '--good', 'local > good')
      expect(found.status).toBe(0)
      expect(JSON.parse(found.stdout)).toEqual({
        cell: 'local > bad',
        points: ['a'],
        minimal: 'local > bad',
        nearest: 'local > good',
        axis: 'tool',
        skipped: [],
        unknown: [],
        outcomes: ['bad', 'good', 'bad'],
        verdict: 'found',
        rerun: {
          'local > bad': "npx kvitest bisect m.matrix.ts --run 'local > bad'",
          'local > good': "npx kvitest bisect m.matrix.ts --run 'local > good'",
        },
      })
      const [bad, good] = ['local > bad', 'local > good'].map((cell) => kvitest('--run', cell))
      expect([bad!.status, good!.status]).toEqual([1, 0])
      expect(bad!.stdout).toContain('fail a: not ok 1 - a\nlocal > bad: fail (1 fail, 2 pass)\n')
      const none = kvitest('local > bad')
      expect([none.status, none.stderr]).toEqual([
        125,
        'kvitest: bisect: the matrix m has no baseline; name a good cell with --good\n',
      ])
    },
    PATIENCE,
  )
})

describe('the stored cells', () => {
  test(
    'are written by vitest -u, and hold from then on; -t picks a point of one cell',
    async () => {
      using project = new TemporaryProject({ 'm.matrix.ts': matrix('m', `tools: [${good}]`) }, options)
      const first = await project.run()
      expect(first.status).toBe(1)
      expect(first.tests['the cells are those that are stored']!.failureMessages.join()).toContain(
        '+local > good',
      )
      expect((await project.run('-u')).status).toBe(0)
      expect(JSON.parse(project.read('m.cells.json'))).toEqual(JSON.parse(goodCells))
      const third = await project.run('-t', 'good > b$')
      expect(third.status).toBe(0)
      expect(third.tests).toMatchObject({
        'local good a': { status: 'skipped' },
        'local good b': { status: 'passed' },
      })
    },
    PATIENCE,
  )
})
