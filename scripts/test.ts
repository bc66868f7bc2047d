/**
 * `npm test`: every check and every test of the project, one after the other, and one closing line with the
 * real counts. A step that could not run counts as a failure, never as nothing.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { Counts } from './counts-reporter.ts'

const root = resolve(import.meta.dirname, '..')
const scratch = mkdtempSync(join(tmpdir(), 'kvitest-test-'))
/** What failed is said once more at the end: of a long log a dashboard keeps the last lines. */
const totals: Counts = { passed: 0, failed: 0, skipped: 0, failures: [] }

function record(step: string, startedAt: number, counts: Counts): void {
  totals.passed += counts.passed
  totals.failed += counts.failed
  totals.skipped += counts.skipped
  totals.failures.push(...counts.failures)
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1)
  console.log(
    `== ${step}: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped (${seconds} s)`,
  )
}

function run(
  command: string[],
  capture: boolean,
  env: NodeJS.ProcessEnv = {},
): { status: number; output: string } {
  const [program, ...args] = command
  const child = spawnSync(program!, args, {
    cwd: root,
    stdio: ['ignore', capture ? 'pipe' : 'inherit', 'inherit'],
    maxBuffer: 1 << 28,
    // vitest.config.ts says what that leaves to `npm run test:long`.
    env: {
      ...process.env,
      KVITEST_SUITE: 'short',
      // The tests start Node hundreds of times.
      NODE_COMPILE_CACHE: join(scratch, 'compiled'),
      PATH: `${join(root, 'node_modules/.bin')}:${process.env.PATH}`,
      ...env,
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
  const failures = ok ? [] : [`${step}: ${command.join(' ')}`]
  record(step, startedAt, { passed: ok ? 1 : 0, failed: ok ? 0 : 1, skipped: 0, failures })
}

function nativeTests(): void {
  const startedAt = performance.now()
  const { status, output } = run(['build/Release/native_tests'], true)
  const match = /test cases:\s*(\d+)\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed\s*\|\s*(\d+) skipped/.exec(
    output,
  )
  const [, , passed = 0, failed = 0, skipped = 0] = match?.map(Number) ?? []
  const counts: Counts = { passed, failed, skipped, failures: nativeFailures(output) }
  if (passed + failed === 0 || (status !== 0 && failed === 0)) {
    counts.failed++
    counts.failures.push(`native tests: ended with status ${status} and ${passed} cases passed`)
  }
  record('native tests', startedAt, counts)
}

/** The cases with an error, from doctest's output. */
function nativeFailures(output: string): string[] {
  const failed = output.split('='.repeat(79)).filter((part) => /\bERROR: /.test(part))
  const names = failed.flatMap((part) => /TEST CASE:\s*(.+)/.exec(part)?.[1] ?? [])
  return [...new Set(names)].map((name) => `native tests: ${name}`)
}

function vitestProjects(retries: string[], ...projects: string[]): void {
  const startedAt = performance.now()
  const step = `vitest ${projects.join(', ')}`
  const file = join(scratch, `${projects[0]}.json`)
  const reporters = ['--reporter=default', '--reporter=./scripts/counts-reporter.ts']
  const chosen = projects.flatMap((project) => ['--project', project])
  const { status } = run(['vitest', 'run', ...chosen, ...retries, ...reporters], false, {
    KVITEST_COUNTS: file,
  })
  let counts: Counts = { passed: 0, failed: 1, skipped: 0, failures: [] }
  try {
    counts = JSON.parse(readFileSync(file, 'utf8')) as Counts
  } catch (error) {
    counts.failures.push(`${step}: left no report: ${(error as Error).message}`)
  }
  if (counts.passed + counts.failed + counts.skipped === 0 || (status !== 0 && counts.failed === 0)) {
    counts.failed++
    counts.failures.push(`${step}: ended with status ${status} and ${counts.passed} tests passed`)
  }
  record(step, startedAt, counts)
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
for (const failure of totals.failures) console.log(`FAILED ${failure}`)
console.log(`${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`)
process.exitCode = totals.failed === 0 ? 0 : 1
