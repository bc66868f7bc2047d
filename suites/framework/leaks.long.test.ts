/**
 * The whole of suites/virtio, ended in every way a run can end; five seconds later nothing of it is left. The table at
 * the end is the one of docs/performance.md.
 */
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeEach, expect, test } from 'vitest'
import type { Held } from './count-around-run.ts'
import { type MarkedProcess, root, startMarked, startOnTerminal } from './marked-process.ts'
import { type OwnCache, ownCache } from './own-cache.ts'

const config = join(root, 'fixtures/whole-suite/vitest.config.ts')
const command = ['vitest', 'run', '--config', config, '--reporter=verbose', 'suites/virtio']

let cache: OwnCache
/** TMPDIR and XDG_RUNTIME_DIR of the run. */
let scratch: string
let env: NodeJS.ProcessEnv
const table: string[] = []

beforeEach(async () => {
  cache = await ownCache()
  scratch = await mkdtemp(join(tmpdir(), 'kvitest-leaks-'))
  env = {
    ...cache.env,
    KVITEST_LAB_MEMORY: undefined,
    KVITEST_KERNEL: 'debian:6.12-cloud',
    TMPDIR: scratch,
    XDG_RUNTIME_DIR: scratch,
  }
})

afterEach(async () => {
  await cache[Symbol.asyncDispose]()
  await rm(scratch, { recursive: true, force: true })
})

afterAll(() => {
  const head = [
    'how the run ended',
    'seconds',
    'processes',
    'sockets',
    'files',
    'shared memory',
    'leases',
    'in-process',
  ]
  console.log(
    [head, head.map(() => '---'), ...table.map((row) => [row])]
      .map((row) => `| ${row.join(' | ')} |`)
      .join('\n'),
  )
})

interface Left {
  processes: string[]
  /** Unix sockets bound below the scratch directory. */
  sockets: string[]
  /** In the scratch directory, and of the cache who uses it and what was half made. */
  files: string[]
  /** System V segments and /dev/shm. */
  shared: string[]
  /** Whoever keeps the budget of the run, and the leases that he knows of. */
  leases: string[]
}

/** As a person would look; only when everything else is gone, or will not go. */
function leases(): string[] {
  const { stdout } = spawnSync(join(root, 'scripts/kvitest'), ['doctor', '--json'], {
    env: { ...process.env, ...env },
    encoding: 'utf8',
  })
  const report = JSON.parse(stdout) as { leases?: { guest: string; state: string }[] }
  return report.leases?.map(({ guest, state }) => `${guest} ${state}`) ?? []
}

function sharedMemory(): string[] {
  const segments = readFileSync('/proc/sysvipc/shm', 'latin1').trim().split('\n').slice(1)
  return [...readdirSync('/dev/shm'), ...segments.map((line) => line.trim())]
}

function look(run: MarkedProcess, sharedBefore: string[]): Left {
  const sockets = readFileSync('/proc/net/unix', 'latin1').split('\n')
  const users = (() => {
    try {
      return readdirSync(join(cache.directory, 'users'))
    } catch {
      return []
    }
  })()
  return {
    processes: run.alive(),
    sockets: sockets.filter((line) => line.includes(scratch)),
    files: [...readdirSync(scratch), ...users.map((name) => `users/${name}`)],
    shared: sharedMemory().filter((one) => !sharedBefore.includes(one)),
    leases: [],
  }
}

/** What is still there five seconds after the run has ended. */
async function leftBy(run: MarkedProcess, sharedBefore: string[]): Promise<Left> {
  const deadline = performance.now() + 5000
  let left = look(run, sharedBefore)
  while (performance.now() < deadline && Object.values(left).some((list) => list.length > 0)) {
    await sleep(100)
    left = look(run, sharedBefore)
  }
  return { ...left, leases: leases() }
}

function row(name: string, startedAt: number, left: Left, inProcess = '-'): void {
  const seconds = Math.round((performance.now() - startedAt) / 1000)
  const { processes, sockets, files, shared, leases: held } = left
  const counts = [processes, sockets, files, shared, held].map((list) => list.length)
  table.push([name, seconds, ...counts, inProcess].join(' | '))
  console.log(table.at(-1))
}

const nothing: Left = { processes: [], sockets: [], files: [], shared: [], leases: [] }

test.for([
  { name: 'its normal end', more: [], failed: 0 },
  { name: 'a failing test', more: ['fixtures/scripts/missing-declared-point'], failed: 1 },
  { name: 'a script over its time', more: ['fixtures/scripts/times-out'], failed: 1 },
])('$name', { timeout: 1_800_000 }, async ({ name, more, failed }) => {
  const startedAt = performance.now()
  const sharedBefore = sharedMemory()
  const program = join(import.meta.dirname, 'count-around-run.ts')
  const warmUp = 'fixtures/scripts/dynamic-points'
  const run = startMarked([process.execPath, program, config, warmUp, 'suites/virtio', ...more], {
    env,
    ownLabs: true,
  })
  const { stdout, stderr } = await run.finished
  const counted = /^held (.*)$/m.exec(stdout)?.[1]
  expect(counted, `${stdout}\n${stderr}`).toBeDefined()
  const result = JSON.parse(counted!) as { failed: number; before: Held; after: Held }
  const left = await leftBy(run, sharedBefore)
  row(
    name,
    startedAt,
    left,
    JSON.stringify(result.after) === JSON.stringify(result.before) ? 'as before' : 'more',
  )
  // What is left is looked at whatever the run came to: a script that is over its time on a busy machine hides no leak.
  expect.soft(result.after).toEqual(result.before)
  expect.soft(left).toEqual(nothing)
  expect(result.failed > 0, `${stdout}\n${stderr}`).toBe(failed > 0)
})

/** Guests of several scripts run by the time some of their points have settled. */
async function untilGuestsRun(run: MarkedProcess): Promise<void> {
  await run.until(/✓.*suites\/virtio/, 300_000)
}

test.for([
  { name: 'Ctrl-C once', keys: 1 },
  { name: 'Ctrl-C twice', keys: 2 },
])('$name', async ({ name, keys }) => {
  const startedAt = performance.now()
  const sharedBefore = sharedMemory()
  const run = startOnTerminal(command.join(' '), { env, ownLabs: true })
  await untilGuestsRun(run)
  for (let i = 0; i < keys; i++) run.child.stdin!.write('\x03')
  await run.finished
  const left = await leftBy(run, sharedBefore)
  row(name, startedAt, left)
  expect(left.processes).toEqual([])
  expect(await afterNextRun(left)).toEqual(nothing)
})

test.for([
  { name: 'SIGTERM of the main process', signal: 'SIGTERM', of: 'main' },
  { name: 'SIGKILL of the main process', signal: 'SIGKILL', of: 'main' },
  { name: 'SIGKILL of a worker', signal: 'SIGKILL', of: 'worker' },
  { name: "SIGKILL of a lab's QEMU", signal: 'SIGKILL', of: 'lab' },
] as const)('$name', async ({ name, signal, of }) => {
  const startedAt = performance.now()
  const sharedBefore = sharedMemory()
  const run = startMarked(command, { env, ownLabs: true })
  await untilGuestsRun(run)
  const pids = {
    main: () => run.child.pid!,
    worker: () => pidOf(run, '--experimental-import-meta-resolve'),
    lab: () => pidOf(run, 'qemu-system'),
  }
  process.kill(pids[of](), signal)
  const { status } = await run.finished
  const left = await leftBy(run, sharedBefore)
  row(name, startedAt, left)
  expect(status).not.toBe(0)
  expect(left.processes).toEqual([])
  if (of === 'main') expect(await afterNextRun(left)).toEqual(nothing)
  else expect(left).toEqual(nothing)
})

function pidOf(run: MarkedProcess, word: string): number {
  return Number.parseInt(run.alive().find((line) => line.includes(word))!, 10)
}

/** Nobody is left to remove the files of a process that was killed: the next run does. */
async function afterNextRun(left: Left): Promise<Left> {
  if (left.files.length === 0) return left
  const next = startMarked(['scripts/kvitest', 'run', '--host', 'lab', '--', 'true'], {
    env,
    ownLabs: true,
    input: '',
  })
  expect(await next.finished).toMatchObject({ status: 0 })
  const prune = startMarked(['scripts/kvitest', 'cache', 'prune', '--older-than', '7d'], {
    env,
    ownLabs: true,
  })
  await prune.finished
  return leftBy(next, sharedMemory())
}
