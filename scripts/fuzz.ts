/**
 * `npm run fuzz -- [--seconds N] [TARGET...]`: builds the fuzzer with clang and runs each target for N seconds
 * (default 60), as many at a time as there are CPUs, from the seeds in native/fuzz/corpus and what earlier runs found
 * (build/fuzz/corpus). An input that crashes, hangs or leaks is kept in build/fuzz/crashes; copy it to
 * native/fuzz/corpus/TARGET, where every `npm test` runs it.
 */
import { spawn, spawnSync } from 'node:child_process'
import { createWriteStream, existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { delimiter, join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import pLimit from 'p-limit'

const root = resolve(import.meta.dirname, '..')
const build = join(root, 'build/fuzz')
const seeds = join(root, 'native/fuzz/corpus')

function fail(line: string): never {
  console.error(`fuzz: ${line}`)
  process.exit(1)
}

/** A clang that brings libFuzzer: the plain name, or Debian's with a version. */
function findClang(): string {
  const names = (process.env.PATH ?? '')
    .split(delimiter)
    .filter((directory) => existsSync(directory))
    .flatMap((directory) => readdirSync(directory))
  const clang = names.filter((name) => /^clang(-\d+)?$/.test(name)).sort()[0]
  const resource = clang && spawnSync(clang, ['-print-runtime-dir'], { encoding: 'utf8' }).stdout.trim()
  const isWhole = resource && existsSync(join(resource, 'libclang_rt.fuzzer-x86_64.a'))
  return clang && isWhole
    ? clang
    : fail('no clang with libFuzzer; run: apt-get install clang libclang-rt-14-dev')
}

function buildFuzzer(): void {
  const clang = findClang()
  const steps = [
    [
      'cmake',
      '-S',
      '.',
      '-B',
      build,
      '-DKVITEST_FUZZ=ON',
      `-DCMAKE_C_COMPILER=${clang}`,
      `-DCMAKE_CXX_COMPILER=${clang.replace('clang', 'clang++')}`,
    ],
    ['cmake', '--build', build, '--target', 'fuzz', '--parallel', `${availableParallelism()}`],
  ]
  for (const [program, ...args] of steps) {
    const { status } = spawnSync(program!, args, { cwd: root, stdio: ['ignore', 'ignore', 'inherit'] })
    if (status !== 0) fail('the build failed')
  }
}

/** Runs one target; its last line of statistics, or why it failed. */
function runTarget(target: string, seconds: number): Promise<{ ok: boolean; line: string }> {
  const found = join(build, 'corpus', target)
  const crashes = join(build, 'crashes')
  for (const directory of [found, crashes]) mkdirSync(directory, { recursive: true })
  const log = join(build, `${target}.log`)
  const output = createWriteStream(log)
  const child = spawn(
    join(build, 'Release/fuzz'),
    [
      `-max_total_time=${seconds}`,
      '-timeout=20',
      '-rss_limit_mb=2048',
      '-max_len=4096',
      '-print_final_stats=1',
      `-artifact_prefix=${join(crashes, `${target}-`)}`,
      found,
      join(seeds, target),
    ],
    { env: { ...process.env, KVITEST_FUZZ_TARGET: target }, stdio: ['ignore', 'ignore', 'pipe'] },
  )
  child.stderr.pipe(output)
  return new Promise((done) => {
    child.on('close', (status) => {
      const text = readFileSync(log, 'utf8')
      const runs = /stat::number_of_executed_units:\s*(\d+)/.exec(text)?.[1] ?? '0'
      const covered = [...text.matchAll(/cov: (\d+)/g)].at(-1)?.[1] ?? '0'
      const ok = status === 0
      done({ ok, line: ok ? `${runs} inputs, ${covered} edges` : `failed, see ${log} and ${crashes}` })
    })
  })
}

const { values, positionals } = parseArgs({
  options: { seconds: { type: 'string', default: '60' } },
  allowPositionals: true,
})
const seconds = Number(values.seconds)
const targets = readdirSync(seeds).sort()
const chosen = positionals.length > 0 ? positionals : targets
if (!Number.isInteger(seconds) || seconds < 1) fail(`--seconds ${values.seconds}: a whole number from 1 on`)
const unknown = chosen.find((name) => !targets.includes(name))
if (unknown) fail(`${unknown}: no such target; there are ${targets.join(', ')}`)

buildFuzzer()
const limit = pLimit(availableParallelism())
const results = await limit.map(chosen, async (target) => {
  const { ok, line } = await runTarget(target, seconds)
  console.log(`${target}: ${line}`)
  return ok
})
process.exitCode = results.every(Boolean) ? 0 : 1
