import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'

/** Registers for `root`, starts one more of itself while `depth` lasts, then waits to be killed. */
const program = (root: string, depth: number): string => `
  import { spawn } from 'node:child_process'
  import { registerUser } from ${JSON.stringify(new URL('cache-users.ts', import.meta.url).href)}
  await registerUser(${JSON.stringify(root)})
  console.log(process.pid)
  if (${depth} > 0) {
    const text = ${depth > 0 ? JSON.stringify(program(root, depth - 1)) : '""'}
    const child = spawn(process.execPath, ['--input-type=module', '-e', text], { stdio: ['pipe', 'inherit', 'inherit'] })
    process.stdin.once('data', () => child.kill('SIGKILL'))
    child.once('exit', () => process.exit(0))
  } else process.stdin.resume()
`

async function place(): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'kvitest-cache-users-'))
  onTestFinished(() => rm(root, { recursive: true, force: true }))
  return root
}

function start(root: string, depth: number) {
  const env = { ...process.env, KVITEST_CACHE_USER: '' }
  const child = spawn(process.execPath, ['--input-type=module', '-e', program(root, depth)], { env })
  onTestFinished(() => void child.kill('SIGKILL'))
  const pids: string[] = []
  child.stdout.setEncoding('utf8').on('data', (text: string) => pids.push(...text.trim().split('\n')))
  return { child, pids }
}

test('a process stands for what it starts, which may be killed and leaves nothing', async () => {
  const root = await place()
  const { child, pids } = start(root, 1)
  await expect.poll(() => pids.length, { timeout: 30_000 }).toBe(2)
  expect(await readdir(join(root, 'users'))).toEqual([expect.stringMatching(`^${pids[0]}-`)])

  const ended = once(child, 'exit')
  child.stdin.write('now')
  await ended

  expect(await readdir(join(root, 'users'))).toEqual([])
})

test('whoever comes next sweeps the names of those that were killed, and no others', async () => {
  const root = await place()
  await mkdir(join(root, 'users'))
  await writeFile(join(root, 'users', '1-1'), '')
  const first = start(root, 0)
  await expect.poll(() => first.pids.length, { timeout: 30_000 }).toBe(1)
  const ended = once(first.child, 'exit')
  first.child.kill('SIGKILL')
  await ended
  const second = start(root, 0)
  const third = start(root, 0)

  await expect.poll(() => second.pids.length + third.pids.length, { timeout: 30_000 }).toBe(2)

  const names = await readdir(join(root, 'users'))
  expect(names.map((name) => name.split('-')[0]).sort()).toEqual([...second.pids, ...third.pids].sort())
})
