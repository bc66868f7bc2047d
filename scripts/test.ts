/**
 * `npm test`: every check and every test of the project, one after the other, and one closing line with the
 * real counts. A step that could not run counts as a failure, never as nothing.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

interface Counts {
  passed: number
  failed: number
  skipped: number
}

const root = resolve(import.meta.dirname, '..')
const scratch = mkdtempSync(join(tmpdir(), 'kvitest-test-'))
const totals: Counts = { passed: 0, failed: 0, skipped: 0 }

function record(step: string, startedAt: number, counts: Counts): void {
  totals.passed += counts.passed
  totals.failed += counts.failed
  totals.skipped += counts.skipped
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
  record('native tests', startedAt, counts)
}

/** The part of vitest's JSON report that is read here. */
interface JsonReport {
  numPassedTests: number
  numFailedTests: number
  numPendingTests: number
  numTodoTests: number
  testResults: { status: string; assertionResults: unknown[] }[]
}

function vitestProjects(retries: string[], ...projects: string[]): void {
  const startedAt = performance.now()
  const file = join(scratch, `${projects[0]}.json`)
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${file}`]
  const chosen = projects.flatMap((project) => ['--project', project])
  const { status } = run(['vitest', 'run', ...chosen, ...retries, ...reporters], false)
  let counts: Counts = { passed: 0, failed: 1, skipped: 0 }
  try {
    const report = JSON.parse(readFileSync(file, 'utf8')) as JsonReport
    // A file that broke before its first test has no assertion to count, yet it failed.
    const broken = report.testResults.filter((r) => r.status === 'failed' && r.assertionResults.length === 0)
    counts = {
      passed: report.numPassedTests,
      failed: report.numFailedTests + broken.length,
      skipped: report.numPendingTests + report.numTodoTests,
    }
  } catch (error) {
    console.error(`vitest of ${projects.join(', ')} left no report: ${(error as Error).message}`)
  }
  if (status !== 0 && counts.failed === 0) counts.failed = 1
  if (counts.passed + counts.failed + counts.skipped === 0) counts.failed = 1
  record(`vitest ${projects.join(', ')}`, startedAt, counts)
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
console.log(`${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`)
process.exitCode = totals.failed === 0 ? 0 : 1
