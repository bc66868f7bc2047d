/**
 * `npm test`: every check and every test of the project, one after the other, and one closing line with the
 * real counts. A step that could not run counts as a failure, never as nothing.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative, resolve } from 'node:path'

interface Counts {
  passed: number
  failed: number
  skipped: number
}

const root = resolve(import.meta.dirname, '..')
const scratch = mkdtempSync(join(tmpdir(), 'kvitest-test-'))
const totals: Counts = { passed: 0, failed: 0, skipped: 0 }
/** What failed, a line each: said once more at the end, because of a long log a dashboard keeps the last lines. */
const failures: string[] = []

function record(step: string, startedAt: number, counts: Counts, named: string[] = []): void {
  totals.passed += counts.passed
  totals.failed += counts.failed
  totals.skipped += counts.skipped
  if (counts.failed > 0) failures.push(...(named.length > 0 ? named : [`${step}: its output above says how`]))
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1)
  console.log(
    `== ${step}: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped (${seconds} s)`,
  )
}

function run(command: string[], capture: boolean): { status: number; output: string } {
  const [program, ...args] = command
  const child = spawnSync(program!, args, {
    cwd: root,
    stdio: ['ignore', capture ? 'pipe' : 'inherit', 'inherit'],
    maxBuffer: 1 << 28,
    // vitest.config.ts says what that leaves to `npm run test:long`.
    env: {
      ...process.env,
      KVITEST_SUITE: 'short',
      PATH: `${join(root, 'node_modules/.bin')}:${process.env.PATH}`,
    },
  })
  const output = child.stdout?.toString() ?? ''
  if (capture) process.stdout.write(output)
  if (child.error) console.error(`${program}: ${child.error.message}`)
  return { status: child.status ?? 1, output }
}

/** A check without test cases of its own counts as one. */
function check(step: string, command: string[]): void {
  const startedAt = performance.now()
  const ok = run(command, false).status === 0
  record(step, startedAt, { passed: ok ? 1 : 0, failed: ok ? 0 : 1, skipped: 0 })
}

function nativeTests(): void {
  const startedAt = performance.now()
  const { status, output } = run(['build/Release/native_tests'], true)
  const match = /test cases:\s*(\d+)\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed\s*\|\s*(\d+) skipped/.exec(
    output,
  )
  const counts = match
    ? { passed: Number(match[2]), failed: Number(match[3]), skipped: Number(match[4]) }
    : { passed: 0, failed: 1, skipped: 0 }
  if (status !== 0 && counts.failed === 0) counts.failed = 1
  if (counts.passed + counts.failed === 0) counts.failed = 1
  record('native tests', startedAt, counts, nativeFailures(output))
}

/** The cases with an error, from doctest's output. */
function nativeFailures(output: string): string[] {
  const failed = output.split('='.repeat(79)).filter((part) => /\bERROR: /.test(part))
  const names = failed.flatMap((part) => /TEST CASE:\s*(.+)/.exec(part)?.[1] ?? [])
  return [...new Set(names)].map((name) => `native tests: ${name}`)
}

/** The part of vitest's JSON report that is read here. */
interface JsonReport {
  numPassedTests: number
  numFailedTests: number
  numPendingTests: number
  numTodoTests: number
  testResults: {
    name: string
    status: string
    message: string
    assertionResults: { status: string; fullName: string; failureMessages: string[] }[]
  }[]
}

function firstLine(text: string | undefined): string {
  return text?.split('\n', 1)[0] ?? ''
}

function vitestFailures({ testResults }: JsonReport): string[] {
  return testResults
    .filter(({ status }) => status === 'failed')
    .flatMap(({ name, message, assertionResults }) => {
      const file = relative(root, name)
      const failed = assertionResults.filter((assertion) => assertion.status === 'failed')
      if (failed.length === 0) return [`${file}: ${firstLine(message)}`]
      return failed.map((test) => `${file} > ${test.fullName}: ${firstLine(test.failureMessages[0])}`)
    })
}

function vitestProjects(retries: string[], ...projects: string[]): void {
  const startedAt = performance.now()
  const file = join(scratch, `${projects[0]}.json`)
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${file}`]
  const chosen = projects.flatMap((project) => ['--project', project])
  const { status } = run(['vitest', 'run', ...chosen, ...retries, ...reporters], false)
  let counts: Counts = { passed: 0, failed: 1, skipped: 0 }
  let named: string[] = []
  try {
    const report = JSON.parse(readFileSync(file, 'utf8')) as JsonReport
    // A file that broke before its first test has no assertion to count, yet it failed.
    const broken = report.testResults.filter((r) => r.status === 'failed' && r.assertionResults.length === 0)
    counts = {
      passed: report.numPassedTests,
      failed: report.numFailedTests + broken.length,
      skipped: report.numPendingTests + report.numTodoTests,
    }
    named = vitestFailures(report)
  } catch (error) {
    console.error(`vitest of ${projects.join(', ')} left no report: ${(error as Error).message}`)
  }
  if (status !== 0 && counts.failed === 0) counts.failed = 1
  if (counts.passed + counts.failed + counts.skipped === 0) counts.failed = 1
  record(`vitest ${projects.join(', ')}`, startedAt, counts, named)
}

try {
  check('types', ['tsc', '--noEmit'])
  check('biome', ['biome', 'check', '.'])
  check('layers', ['node', 'scripts/check-layers.ts'])
  check('clang-format', [
    'sh',
    '-c',
    "find native -name '*.h' -o -name '*.cc' -o -name '*.c' | xargs clang-format --dry-run -Werror",
  ])
  nativeTests()
  vitestProjects(['--retry=1'], 'unit')
  // Together, because labs are shared by the projects of one run.
  // Two emulated cores, or another program here, stall an SMP guest now and then (docs/performance.md); a retry shows as such in the report.
  vitestProjects(['--retry=1'], 'lab', 'virtio*', 'kvm*')
} finally {
  rmSync(scratch, { recursive: true, force: true })
}
for (const failure of failures) console.log(`FAILED ${failure}`)
console.log(`${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`)
process.exitCode = totals.failed === 0 ? 0 : 1
