/**
 * `npm run test:sanitize -- [address|thread]`: the native tests, built with ASan and UBSan and again with TSan. Among them
 * are the corpus of the fuzzer and, with sanitizers only, the bare guest that breaks the rules
 * (native/machine/conformance_test.cc). The last lines say how each ended and how long it took.
 */
import { spawnSync } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { join, resolve } from 'node:path'

const root = resolve(import.meta.dirname, '..')
const variants = { address: 'address,undefined', thread: 'thread' }

function run(argv: string[], env: Record<string, string> = {}): boolean {
  const [program, ...args] = argv
  const { status, error } = spawnSync(program!, args, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...env },
  })
  if (error) console.error(`${program}: ${error.message}; npm run setup installs what the build needs`)
  return status === 0
}

/** Runs one variant; the line about it. */
function check(name: string, sanitizers: string): { ok: boolean; line: string } {
  const build = join('build', name)
  const started = performance.now()
  const built =
    run(['cmake', '-S', '.', '-B', build, `-DKVITEST_SANITIZE=${sanitizers}`]) &&
    run(['cmake', '--build', build, '--target', 'native_tests', '--parallel', `${availableParallelism()}`])
  const began = performance.now()
  const ok =
    built &&
    // The limit of mappings is one that a sanitizer does not survive either.
    run([join(build, 'Release/native_tests'), '--test-case-exclude=*limit of mappings*'], {
      ASAN_OPTIONS: 'detect_stack_use_after_return=1:strict_string_checks=1',
      UBSAN_OPTIONS: 'print_stacktrace=1',
      TSAN_OPTIONS: 'second_deadlock_stack=1',
    })
  const seconds = (from: number, to: number) => `${Math.round((to - from) / 1000)} s`
  const took = `build ${seconds(started, began)}, tests ${seconds(began, performance.now())}`
  return { ok, line: `${sanitizers}: ${ok ? 'passed' : 'failed'} (${took})` }
}

const asked = process.argv.slice(2)
const unknown = asked.find((name) => !Object.hasOwn(variants, name))
if (unknown) {
  console.error(`${unknown}: no such variant; there are ${Object.keys(variants).join(', ')}`)
  process.exit(1)
}
const outcomes = Object.entries(variants)
  .filter(([name]) => asked.length === 0 || asked.includes(name))
  .map(([name, sanitizers]) => check(name, sanitizers))
for (const { line } of outcomes) console.log(line)
process.exitCode = outcomes.every(({ ok }) => ok) ? 0 : 1
