/** Whatever ends a run, five seconds later nothing of it is left: no process, no socket, no scratch directory. */
import { readdirSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type MarkedProcess, root, startMarked, startOnTerminal } from './marked-process.ts'

const command = [
  'vitest',
  'run',
  '--root',
  join(root, 'fixtures/scripts'),
  'never-ends',
  '--reporter=verbose',
]

let place: string
let env: NodeJS.ProcessEnv

beforeEach(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-leaks-'))
  // Scratch files and sockets go where they can be counted; the cache stays shared.
  env = { TMPDIR: place, XDG_RUNTIME_DIR: place }
})

afterEach(async () => {
  await rm(place, { recursive: true, force: true })
})

/** The script is known to run when its worker, its lab's QEMU and the main process all live for a while. */
async function untilGuestRuns(run: MarkedProcess): Promise<void> {
  await run.until(/✓.*never-ends is running/)
}

test('Ctrl-C once ends the run and leaves nothing', async () => {
  const run = startOnTerminal(command.join(' '), { env, ownLabs: true })
  await untilGuestRuns(run)
  run.child.stdin!.write('\x03')
  await run.finished
  expect(await run.survivors()).toEqual([])
  await expect.poll(() => readdirSync(place), { timeout: 5000 }).toEqual([])
})

test('Ctrl-C twice ends the run at once and leaves no process', async () => {
  const run = startOnTerminal(command.join(' '), { env, ownLabs: true })
  await untilGuestRuns(run)
  run.child.stdin!.write('\x03')
  run.child.stdin!.write('\x03')
  await run.finished
  expect(await run.survivors()).toEqual([])
})

test.for(['SIGTERM', 'SIGKILL'] as const)('%s of the main process leaves no process', async (signal) => {
  const run = startMarked(command, { env, ownLabs: true })
  await untilGuestRuns(run)
  run.child.kill(signal)
  await run.finished
  expect(await run.survivors()).toEqual([])
})

test('SIGKILL of a worker is a failed run, said so, with nothing left', async () => {
  const run = startMarked(command, { env, ownLabs: true })
  await untilGuestRuns(run)
  const worker = run.alive().find((line) => line.includes('--experimental-import-meta-resolve'))
  process.kill(Number.parseInt(worker!, 10), 'SIGKILL')
  const result = await run.finished
  expect(result.status).not.toBe(0)
  expect(`${result.stdout}${result.stderr}`).toMatch(/worker|SIGKILL|exited/i)
  expect(await run.survivors()).toEqual([])
  await expect.poll(() => readdirSync(place), { timeout: 5000 }).toEqual([])
})

test("SIGKILL of the lab's QEMU is verdict infra with the lab's last words, and the run ends", async () => {
  const run = startMarked(command, { env, ownLabs: true })
  await untilGuestRuns(run)
  const qemu = run.alive().filter((line) => line.includes('qemu-system'))
  for (const line of qemu) process.kill(Number.parseInt(line, 10), 'SIGKILL')
  const result = await run.finished
  expect(qemu.length).toBeGreaterThan(0)
  expect(result.status).not.toBe(0)
  expect(`${result.stdout}${result.stderr}`).toMatch(/infra: .*lab/)
  expect(await run.survivors()).toEqual([])
  await expect.poll(() => readdirSync(place), { timeout: 5000 }).toEqual([])
})
