import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { parse, parseAllDocuments } from 'yaml'
import { matrixReport } from '../report/matrix/report.ts'
import { point, ranCell } from '../report/matrix/testing/run.ts'
import { planJobs } from './plan/jobs.ts'
import { plan } from './plan.ts'

const expected = {
  cells: ['h1 > big', 'h1 > small', "h2 > it's", 'h2 > small > g'],
  points: { big: ['a', 'b', 'c', 'd', 'e'], small: ['a'], "it's": ['a'], 'small > g': ['a'] },
}
const input = {
  name: 'm',
  project: 'compat',
  file: 'm.matrix.ts',
  expected,
  shards: 2,
  durations: new Map<string, number>(),
}
const dealt = (change: Partial<typeof input>) =>
  planJobs({ ...input, ...change }).jobs.map(({ cells }) => cells)

describe('the cells are dealt out', () => {
  test('by their points, as long as nobody knows how long they take', () => {
    expect(dealt({})).toEqual([['h1 > big'], ['h1 > small', "h2 > it's", 'h2 > small > g']])
  })

  test('by their durations, and by points where those are not known', () => {
    const durations = new Map([
      ['h1 > big', 600],
      ["h2 > it's", 4000],
      ['h1 > small', 100],
    ])
    // 4700 ms for ten points: the last one is taken to need 940 for its two.
    const { jobs } = planJobs({ ...input, durations })
    expect(jobs.map(({ cells }) => cells)).toEqual([
      ["h2 > it's"],
      ['h1 > big', 'h1 > small', 'h2 > small > g'],
    ])
    expect(jobs.map(({ estimate }) => estimate)).toEqual([4000, 1640])
  })

  test('each to one job, in no more jobs than cells, and always in the same way', () => {
    for (const shards of [1, 2, 3, 4, 9]) {
      const jobs = dealt({ shards })
      expect(jobs).toHaveLength(Math.min(shards, 4))
      expect(jobs.flat().toSorted()).toEqual(expected.cells.toSorted())
      expect(dealt({ shards, expected: { ...expected } })).toEqual(jobs)
    }
  })

  test('with a pattern that picks just those', () => {
    const { jobs } = planJobs(input)
    const [first, second] = jobs.map((job) => new RegExp(job.pattern))
    const pattern = second!
    const picked = expected.cells.filter((id) => pattern.test(`${id} > cell`))
    expect(picked).toEqual(jobs[1]!.cells)
    expect(pattern.test('h1 > small2 > cell')).toBe(false)
    const others = ['h1 > big > a', 'h1 > small > a', 'the cells are those that are stored']
    expect(others.map((name) => [first!.test(name), pattern.test(name)])).toEqual([
      [true, false],
      [false, true],
      [true, false],
    ])
  })
})

let folder: string
let said: string
const before = process.cwd()

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvitest-plan-'))
  mkdirSync(join(folder, 'suites'))
  writeFileSync(join(folder, 'suites/m.cells.json'), JSON.stringify(expected))
  process.chdir(folder)
  said = ''
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    said += text
    return true
  })
})

afterEach(() => {
  vi.restoreAllMocks()
  process.chdir(before)
  rmSync(folder, { recursive: true })
})

async function planned(...argv: string[]): Promise<string> {
  said = ''
  expect(await plan(argv)).toBe(0)
  return said
}

/** The words that a shell makes of a script's commands: `npx` is one that tells them. */
function wordsOf(script: string, env: Record<string, string> = {}): string[] {
  mkdirSync('bin', { recursive: true })
  writeFileSync(
    'bin/npx',
    '#!/bin/sh\necho "$VITEST_BLOB_LABEL"\nfor word; do echo "$word"; done\nmkdir -p test-results/blobs/m; echo x >test-results/blobs/m/1.json\n',
    { mode: 0o755 },
  )
  const { stdout, status } = spawnSync('/bin/sh', ['-ec', script], {
    encoding: 'utf8',
    env: { PATH: `${folder}/bin:/usr/bin:/bin`, ...env },
  })
  expect(status).toBe(0)
  return stdout.trimEnd().split('\n')
}

const wordsOfSecond = [
  'm-2',
  'vitest',
  'run',
  '--project',
  'm',
  '-t',
  "^(h1 > small|h2 > it's|h2 > small > g) > ",
  '--reporter=blob',
  '--outputFile.blob=test-results/blobs/m/2.json',
]

describe('the formats', () => {
  test('GitHub: a job for each share, then one that merges whatever came of them', async () => {
    const workflow = parse(await planned('--format', 'github', '--shards', '2'))
    const { cells, report } = workflow.jobs
    const shares = cells.strategy.matrix.include

    expect(Object.keys(workflow)).toEqual(['name', 'on', 'jobs'])
    expect(shares.map(({ shard }: { shard: number }) => shard)).toEqual([1, 2])
    const step = cells.steps.find(({ run = '' }) => run.startsWith('eval'))
    expect(step.env).toEqual({ COMMAND: '${'.concat('{ matrix.command }}') })
    expect(wordsOf(step.run, { COMMAND: shares[1].command })).toEqual(wordsOfSecond)
    expect(report).toMatchObject({ needs: 'cells', if: '${'.concat('{ !cancelled() }}') })
    expect(report.steps.map(({ run }: { run?: string }) => run)).toContain(
      'npx vitest run --project m --merge-reports=test-results/blobs/m',
    )
    const download = report.steps.find(({ uses = '' }) => uses.startsWith('actions/download-artifact@'))
    expect(download.with).toEqual({
      pattern: 'm-cells-*',
      path: 'test-results/blobs/m',
      'merge-multiple': true,
    })
  })

  test('GitLab: the same', async () => {
    const { stages, ...jobs } = parse(await planned('--format', 'gitlab', '--shards', '2'))

    expect(stages).toEqual(['cells', 'report'])
    expect(Object.keys(jobs)).toEqual(['m 1', 'm 2', 'm report'])
    expect(wordsOf(jobs['m 2'].script[0])).toEqual(wordsOfSecond)
    expect(jobs['m 2'].artifacts).toEqual({ when: 'always', paths: ['test-results/blobs/m/2.json'] })
    expect(jobs['m report']).toMatchObject({
      stage: 'report',
      when: 'always',
      needs: [
        { job: 'm 1', artifacts: true },
        { job: 'm 2', artifacts: true },
      ],
      script: ['npx vitest run --project m --merge-reports=test-results/blobs/m'],
    })
  })

  test('Kubernetes: an index for each share; one fails when it leaves no report', async () => {
    const text = await planned('--format', 'k8s', '--shards', '2', '--image', 'registry.example/kvitest:1')
    const [claim, job, report] = parseAllDocuments(text).map((one) => one.toJS())
    const script = job.spec.template.spec.containers[0].command.at(-1)

    expect(job).toMatchObject({
      apiVersion: 'batch/v1',
      kind: 'Job',
      spec: { completionMode: 'Indexed', completions: 2 },
    })
    expect(job.spec.template.spec.volumes[0].persistentVolumeClaim.claimName).toBe(claim.metadata.name)
    expect(job.spec.template.spec.containers[0].image).toBe('registry.example/kvitest:1')
    expect(report.spec).toMatchObject({ suspend: true })
    expect(wordsOf(script, { JOB_COMPLETION_INDEX: '1' })).toEqual(wordsOfSecond)
    const left = (index: string) => {
      rmSync('test-results', { recursive: true, force: true })
      writeFileSync(
        'bin/npx',
        '#!/bin/sh\nmkdir -p test-results/blobs/m; echo x >test-results/blobs/m/1.json; exit 1\n',
      )
      const env = { PATH: `${folder}/bin:/usr/bin:/bin`, JOB_COMPLETION_INDEX: index }
      return spawnSync('/bin/sh', ['-ec', script], { env }).status
    }
    expect([left('0'), left('1')]).toEqual([0, 1])
  })

  test('durations and the project come from the last report', async () => {
    mkdirSync('test-results/matrix', { recursive: true })
    const ran = new Map([
      ranCell("h2 > it's", [point('a', 'pass', { duration: 90_000 })]),
      ranCell('h1 > big', [point('a', 'pass', { duration: 60_000 })]),
    ])
    const report = matrixReport({
      kvitest: '0',
      matrix: 'm',
      file: 'm',
      project: 'mine',
      started: '',
      isPart: false,
      problems: [],
      expected: expected.cells,
      ran,
    })
    writeFileSync('test-results/matrix/m.json', JSON.stringify(report))
    const text = await planned('--format', 'gitlab', '--shards', '2', 'suites/m.cells.json')

    // Of 150 s for eight points the other two cells of two have 75.
    expect(text).toContain('Estimated: 128 s, 98 s.')
    expect(text).toContain('--project mine')
    writeFileSync('other.json', '{}')
    await expect(plan(['--format', 'gitlab', '--report', 'other.json'])).rejects.toThrow(
      'kvitest plan: other.json: it is no report of the format kvitest-matrix-2; give --report FILE.json',
    )
  })
})

test('cells that are not stored are those that the matrix has now', async () => {
  const root = resolve(import.meta.dirname, '../..')
  const text = `import { defineMatrix } from '${root}/src/vitest/matrix.ts'
import { tapTool } from '${root}/src/matrix/testing/tap-tool.ts'
const hosts = await Promise.resolve(['lab:a', 'lab:b', 'lab:c'])
defineMatrix({ name: 'night', tools: [tapTool('big', ''), tapTool('small', '')], hosts, pointsOf: '../suites/m.cells.json' })
`
  mkdirSync('night')
  writeFileSync('night/night.matrix.ts', text)
  const { stages: _, ...jobs } = parse(
    await planned('--format', 'gitlab', '--shards', '2', 'night/night.matrix.ts'),
  )

  const words = [jobs['night 1'], jobs['night 2']].map(({ script }) => wordsOf(script[0]))
  // By the points that the other matrix knows.
  expect(words.map((word) => word[word.indexOf('-t') + 1])).toEqual([
    '^(the cells are those that are stored$|(lab:a > big|lab:c > big) > )',
    '^(lab:a > small|lab:b > big|lab:b > small|lab:c > small) > ',
  ])
  expect(words[0]).toContain('night/night.matrix.ts')
  await expect(plan(['--format', 'gitlab', 'night/no.matrix.ts'])).rejects.toThrow('there is no such file')
})

test('what cannot be meant is named', async () => {
  await expect(plan([])).rejects.toThrow('kvitest plan: no --format; give github, gitlab, k8s')
  await expect(plan(['--format', 'jenkins'])).rejects.toThrow('--format jenkins')
  await expect(plan(['--format', 'github', '--shards', '0'])).rejects.toThrow('--shards 0; give 1 to 256')
  await expect(plan(['--format', 'k8s'])).rejects.toThrow('no --image')
  await expect(plan(['--format', 'github', 'm.json'])).rejects.toThrow(
    'm.json; give a file that ends in .cells.json or .matrix.ts',
  )
  await expect(plan(['--format', 'github', 'x.cells.json'])).rejects.toThrow('x.cells.json has no cells')
  writeFileSync('n.cells.json', JSON.stringify(expected))
  await expect(plan(['--format', 'github'])).rejects.toThrow('n.cells.json, suites/m.cells.json; give one')
})
