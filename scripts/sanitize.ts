/**
 * `npm run test:sanitize`: the native tests, the corpus of the fuzzer among them, built with ASan and UBSan and again
 * with TSan. The last line has the counts of both.
 */
import { spawnSync } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { join, resolve } from 'node:path'

const root = resolve(import.meta.dirname, '..')
const variants = ['address,undefined', 'thread']

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

const failed = variants.filter((sanitizers) => {
  const build = join('build', sanitizers.split(',')[0]!)
  const built =
    run(['cmake', '-S', '.', '-B', build, `-DKVITEST_SANITIZE=${sanitizers}`]) &&
    run(['cmake', '--build', build, '--target', 'native_tests', '--parallel', `${availableParallelism()}`])
  return (
    !built ||
    // The limit of mappings is one that a sanitizer does not survive either.
    !run([join(build, 'Release/native_tests'), '--test-case-exclude=*limit of mappings*'], {
      ASAN_OPTIONS: 'detect_stack_use_after_return=1:strict_string_checks=1',
      UBSAN_OPTIONS: 'print_stacktrace=1',
      TSAN_OPTIONS: `second_deadlock_stack=1:suppressions=${join(root, 'scripts/tsan.supp')}`,
    })
  )
})
for (const sanitizers of variants) {
  console.log(`${sanitizers}: ${failed.includes(sanitizers) ? 'failed' : 'passed'}`)
}
process.exitCode = failed.length === 0 ? 0 : 1
