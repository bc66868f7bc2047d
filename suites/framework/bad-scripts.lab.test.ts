/**
 * Every way a script or its guest misbehaves, each in a real guest, in one run of vitest as a user starts it; what
 * the reports then say. fixtures/scripts/README.md describes the scripts.
 */
import { readdirSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type MarkedProcess, root, startMarked } from './marked-process.ts'

interface Case {
  title: string
  status: string
  message: string
}

interface FileReport {
  cases: Case[]
  /** The failure of the whole file, when it could not even be collected. */
  message: string
  verdict: string | undefined
}

/** What is read here of vitest's JSON report. */
interface JsonReport {
  testResults: {
    name: string
    message: string
    assertionResults: { title: string; status: string; failureMessages: string[] | null }[]
  }[]
}

const folder = join(root, 'fixtures/scripts')
/** Runs until it is stopped; the leak tests have it. */
const endless = 'never-ends'

let place: string
let run: MarkedProcess
let status: number | null
const reports = new Map<string, FileReport>()

beforeAll(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-bad-scripts-'))
  const json = join(place, 'report.json')
  const junit = join(place, 'junit.xml')
  run = startMarked(
    [
      ...['vitest', 'run', '--root', folder, '--exclude', `**/${endless}.tap.sh`],
      ...['--reporter=default', '--reporter=json', `--outputFile.json=${json}`],
    ],
    { env: { KVITEST_FIXTURE_JUNIT: junit } },
  )
  status = (await run.finished).status
  const verdicts = verdictsOf(await readFile(junit, 'utf8'))
  const report = JSON.parse(await readFile(json, 'utf8')) as JsonReport
  for (const file of report.testResults) {
    const name = basename(file.name, '.tap.sh')
    reports.set(name, {
      message: file.message,
      verdict: verdicts.get(name),
      cases: file.assertionResults.map((result) => ({
        title: result.title,
        status: result.status,
        message: result.failureMessages?.join('\n') ?? '',
      })),
    })
  }
}, 900_000)

afterAll(async () => {
  await rm(place, { recursive: true, force: true })
})

/** Script name -> guest verdict, from the suites of our JUnit file. */
function verdictsOf(xml: string): Map<string, string> {
  const suites = xml.split('<testsuite ').slice(1)
  return new Map(
    suites.flatMap((suite) => {
      const file = /file="([^"]+)"/.exec(suite)?.[1]
      const verdict = /<property name="guest\.verdict" value="([^"]+)"/.exec(suite)?.[1]
      return file && verdict ? [[basename(file, '.tap.sh'), verdict] as const] : []
    }),
  )
}

function reportOf(name: string): FileReport {
  const report = reports.get(name)
  if (!report)
    throw new Error(`no report of ${name}; the run said:\n${run.output.stdout}\n${run.output.stderr}`)
  return report
}

function scriptCase(name: string): Case {
  const found = reportOf(name).cases.find((one) => one.title === 'script')
  if (!found) throw new Error(`${name} has no test named script:\n${JSON.stringify(reportOf(name), null, 2)}`)
  return found
}

test('the run as a whole failed, ran every script and left nothing behind', async () => {
  const scripts = readdirSync(folder).filter((name) => name.endsWith('.tap.sh'))
  const expected = scripts.map((name) => basename(name, '.tap.sh')).filter((name) => name !== endless)
  expect(status).toBe(1)
  expect([...reports.keys()].sort()).toEqual(expected.sort())
  expect(await run.survivors()).toEqual([])
})

test.for([
  ['missing-interpreter', 'fail', /interpreter|ENOENT|No such file/],
  ['syntax-error', 'fail', /status 2/],
  ['no-plan', 'fail', /plan/],
  ['no-points', 'fail', /plan|no points/],
  ['fewer-points-than-planned', 'fail', /plan/],
  ['more-points-than-planned', 'fail', /plan/],
  ['duplicate-points', 'fail', /duplicate|twice|two points|number/],
  ['duplicate-points-from-subshell', 'fail', /duplicate|twice|two points|number/],
  ['out-of-order-points', 'fail', /order|number/],
  ['binary-garbage', 'fail', /UTF-8|NUL|binary|garbage/],
  ['ten-megabyte-line', 'fail', /line.*(long|bytes|MiB|cut|truncated)/],
  ['ten-megabyte-name', 'fail', /line.*(long|bytes|MiB|cut|truncated)/],
  ['nonzero-exit-all-ok', 'fail', /status 3/],
  ['dies-of-signal', 'fail', /SIGSEGV/],
  ['times-out', 'timeout', /time/],
  ['floods-output', 'timeout', /time/],
  ['panics', 'panic', /panic/],
  ['panics-after-success', 'panic', /panic/],
  ['powers-off', 'fail', /power/],
  ['reboots', 'fail', /re(boot|set)/],
  ['triple-faults', 'fail', /triple/],
  ['splat-in-kernel-log', 'oops', /WARNING/],
  ['bails-out', 'fail', /the device is on fire/],
  ['points-after-bail-out', 'fail', /bail/i],
] as const)('%s: verdict %s, and the test named script says why', ([name, verdict, why]) => {
  const found = scriptCase(name)
  expect(found.status).toBe('failed')
  expect(found.message).toMatch(why)
  expect(reportOf(name).verdict).toBe(verdict)
})

test('a silent busy script is out of its time, never a pass', () => {
  expect(scriptCase('hangs-without-output').status).toBe('failed')
  expect(reportOf('hangs-without-output').verdict).toBe('timeout')
})

test.for([
  'fake-panic-on-stdout',
  'runs-out-of-memory',
  'leaves-a-daemon',
  'todo-and-skip',
  'comes-in-pieces',
])('%s passes', (name) => {
  expect(reportOf(name).cases.filter((one) => one.status === 'failed')).toEqual([])
  expect(scriptCase(name).status).toBe('passed')
  expect(reportOf(name).verdict).toBe('pass')
})

test.for([
  ['empty', /empty/],
  ['missing-shebang', /#!/],
  ['windows-line-ends', /line end|CR|\\r/],
] as const)('%s is refused before anything boots', ([name, why]) => {
  const { message, cases, verdict } = reportOf(name)
  expect([message, ...cases.map((one) => one.message)].join('\n')).toMatch(why)
  expect(cases.some((one) => one.status === 'passed')).toBe(false)
  expect(verdict).toBeUndefined()
})

test('a declared point that never came fails by itself', () => {
  const missing = reportOf('missing-declared-point').cases.filter((one) => one.status === 'failed')
  expect(missing.map((one) => one.title)).not.toContain('script')
  expect(missing).toHaveLength(1)
  expect(missing[0]!.message).toContain('ended before this point')
})

test('the points before a panic keep their results', () => {
  const points = reportOf('panics-after-success').cases.filter((one) => one.title !== 'script')
  expect(points.length).toBeGreaterThan(0)
  expect(points.map((one) => one.status)).toEqual(points.map(() => 'passed'))
})

test('a script that skips itself is skipped, not passed', () => {
  const { cases, verdict } = reportOf('skip-all')
  expect(cases.map((one) => one.status)).toEqual(cases.map(() => 'skipped'))
  expect(verdict).toBe('skip')
})

test('points known only at run time are tests too', () => {
  const titles = reportOf('dynamic-points').cases.map((one) => one.title)
  expect(titles).toHaveLength(6)
  expect(titles.at(-1)).toBe('script')
})

test('nested KTAP points carry their path and fail where they fail', () => {
  const failed = reportOf('ktap-nested').cases.filter((one) => one.status === 'failed')
  expect(failed.map((one) => one.title)).toContain('main_test > sub_test > case_2')
})

test('a YAML block makes the failure a comparison', () => {
  const found = reportOf('yaml-failure').cases.find((one) => one.title === 'two numbers')
  expect(found!.status).toBe('failed')
  expect(run.output.stdout + run.output.stderr).toMatch(/- 42[\s\S]{0,40}\+ 41|- Expected/)
})
