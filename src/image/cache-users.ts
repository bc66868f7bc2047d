/**
 * Which processes use the cache. Whatever a process takes from it is marked as used at that moment, so nothing that
 * was used before the oldest living process came can be in anybody's hands.
 */
import { rmSync } from 'node:fs'
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isMainThread } from 'node:worker_threads'

/** Field 22 of proc(5)'s stat: tells a process from a later one of the same number. */
async function startTime(pid: number | 'self'): Promise<string | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => '')
  return text.slice(text.lastIndexOf(')') + 2).split(' ')[19]
}

const registered = new Map<string, Promise<void>>()

/** Says once that this process uses the cache at `root`. A cache that cannot be written is not pruned either. */
export function registerUser(root: string): Promise<void> {
  let done = registered.get(root)
  if (!done) {
    done = register(join(root, 'users')).catch(() => {})
    registered.set(root, done)
  }
  return done
}

async function register(directory: string): Promise<void> {
  const path = join(directory, `${process.pid}-${await startTime('self')}`)
  await mkdir(directory, { recursive: true })
  await writeFile(path, '', { flag: 'wx' })
  if (isMainThread) process.once('exit', () => rmSync(path, { force: true }))
}

/** When the oldest living process that uses the cache came, in milliseconds since 1970; sweeps those of dead ones. */
export async function oldestUser(root: string): Promise<number> {
  const directory = join(root, 'users')
  let oldest = Number.POSITIVE_INFINITY
  for (const name of await readdir(directory).catch(() => [])) {
    const path = join(directory, name)
    const [pid, start] = name.split('-')
    if (Number(pid) > 0 && (await startTime(Number(pid))) === start) {
      const came = await stat(path).catch(() => undefined)
      if (came) oldest = Math.min(oldest, came.mtimeMs)
    } else await rm(path, { force: true }).catch(() => {})
  }
  return oldest
}
