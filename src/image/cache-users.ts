/**
 * Which processes use the cache. Whatever a process takes from it is marked as used at that moment, so nothing that
 * was used before the oldest living process came can be in anybody's hands.
 */
import { rmSync } from 'node:fs'
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { isMainThread } from 'node:worker_threads'

/** Field 22 of proc(5)'s stat: tells a process from a later one of the same number. */
async function startTime(pid: number | 'self'): Promise<string | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => '')
  return text.slice(text.lastIndexOf(')') + 2).split(' ')[19]
}

const registered = new Map<string, Promise<void>>()

/** In the environment of what a registered process starts: the path that stands for it, and for them. */
const variable = 'KVITEST_CACHE_USER'

/**
 * Says once that this process, and with it what it starts, uses the cache at `root`. A worker is killed where it
 * stands and could not take its own name back; it lives no longer than the process that started it. A cache that
 * cannot be written is not pruned either.
 */
export function registerUser(root: string): Promise<void> {
  let done = registered.get(root)
  if (!done) {
    done = register(join(root, 'users')).catch(() => {})
    registered.set(root, done)
  }
  return done
}

async function register(directory: string): Promise<void> {
  const parent = process.env[variable]
  if (parent && dirname(parent) === directory && (await isAlive(basename(parent)))) return
  const path = join(directory, `${process.pid}-${await startTime('self')}`)
  await mkdir(directory, { recursive: true })
  await writeFile(path, '', { flag: 'wx' })
  if (isMainThread) {
    process.env[variable] = path
    process.once('exit', () => rmSync(path, { force: true }))
  }
  await sweep(directory)
}

async function isAlive(name: string): Promise<boolean> {
  const [pid, start] = name.split('-')
  return Number(pid) > 0 && (await startTime(Number(pid))) === start
}

/** Those of processes that were killed. */
async function sweep(directory: string): Promise<void> {
  for (const name of await readdir(directory)) {
    if (!(await isAlive(name))) await rm(join(directory, name), { force: true })
  }
}

/** When the oldest living process that uses the cache came, in milliseconds since 1970; sweeps those of dead ones. */
export async function oldestUser(root: string): Promise<number> {
  const directory = join(root, 'users')
  let oldest = Number.POSITIVE_INFINITY
  await sweep(directory).catch(() => {})
  for (const name of await readdir(directory).catch(() => [])) {
    const came = await stat(join(directory, name)).catch(() => undefined)
    if (came) oldest = Math.min(oldest, came.mtimeMs)
  }
  return oldest
}
