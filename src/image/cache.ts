import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { mkdir, readdir, rename, rm, stat, utimes } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { KvitestError } from '../native/error.ts'
import { registerUser } from './cache-users.ts'

/** `$XDG_CACHE_HOME/kvitest`, by default `~/.cache/kvitest`. Everything in it can be deleted at any time. */
export function cacheRoot(): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'kvitest')
}

export function cachePath(...parts: string[]): string {
  return join(cacheRoot(), ...parts)
}

const storageHints: Record<string, string> = {
  EROFS: 'set XDG_CACHE_HOME to a directory that can be written',
  EACCES: 'set XDG_CACHE_HOME to a directory that can be written',
  EPERM: 'set XDG_CACHE_HOME to a directory that can be written',
  ENOTDIR: 'set XDG_CACHE_HOME to a directory',
  EEXIST: 'set XDG_CACHE_HOME to a directory',
  ENOSPC: 'free some space there, or set XDG_CACHE_HOME to a larger place',
  EDQUOT: 'free some space there, or set XDG_CACHE_HOME to a larger place',
}

const storageTexts: Record<string, string> = {
  EROFS: 'read-only file system',
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  ENOTDIR: 'not a directory',
  EEXIST: 'not a directory',
  ENOSPC: 'no space left on device',
  EDQUOT: 'disk quota exceeded',
}

/** Turns a failed write in the cache into the line a person can act on; passes every other error through. */
export function storageError(path: string, error: unknown): unknown {
  if (error instanceof KvitestError) return error
  const code = (error as NodeJS.ErrnoException | null)?.code
  const hint = code === undefined ? undefined : storageHints[code]
  if (code === undefined || hint === undefined) return error
  return new KvitestError('write the cache', `${path}: ${storageTexts[code]} (${code})`, {
    code,
    hint,
    cause: error,
  })
}

/** mkdir -p that says EROFS where Node's own, on a read-only file system, says ENOENT; and that ends in /proc. */
export async function makePath(path: string): Promise<void> {
  try {
    await mkdir(path)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT') {
      await makePath(dirname(path))
      await mkdir(path).catch((again: NodeJS.ErrnoException) => {
        if (again.code !== 'EEXIST') throw again
      })
    } else if (code !== 'EEXIST' || !(await stat(path)).isDirectory()) throw error
  }
}

/** Makes a directory of the cache; rejects with a KvitestError that says what to do. */
export async function makeDirectory(path: string): Promise<void> {
  try {
    await makePath(path)
  } catch (error) {
    throw storageError(path, error)
  }
}

/** A fresh private directory inside the cache, on the same file system as its final place. */
export async function scratchDirectory(): Promise<string> {
  const path = cachePath('tmp', `${process.pid}-${randomUUID()}`)
  await makeDirectory(path)
  return path
}

/**
 * Runs `body` while this process alone, of all on this machine, holds the named lock.
 *
 * The lock is the kernel's own flock, held by a child that ends with its stdin: a holder that dies in whatever
 * way frees it, so there is no stale lock to detect and none to steal by mistake.
 */
export async function withLock<T>(name: string, body: () => Promise<T>): Promise<T> {
  const path = cachePath('locks', name)
  await makeDirectory(dirname(path))
  const holder = spawn('flock', ['-x', path, 'sh', '-c', 'echo held; exec cat >/dev/null'], {
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  const gone = Promise.withResolvers<string>()
  let said = ''
  holder.stderr.on('data', (chunk: Buffer) => {
    said += chunk
  })
  holder.on('error', (error) => gone.resolve(error.message))
  holder.on('close', () => gone.resolve(said.trim() || 'flock ended'))
  holder.stdin.on('error', () => {})
  const held = new Promise<undefined>((resolve) => holder.stdout.once('data', () => resolve(undefined)))
  try {
    const failure = await Promise.race([held, gone.promise])
    if (failure !== undefined) {
      const code = /Read-only/.test(failure) ? 'EROFS' : /No space/.test(failure) ? 'ENOSPC' : 'EACCES'
      throw new KvitestError('lock the cache', `${path}: ${failure}`, { code, hint: storageHints[code] })
    }
    return await body()
  } finally {
    holder.stdin.end()
    await gone.promise
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path)
    return true
  } catch {
    return false
  }
}

/**
 * The path of a cached product, made by `build` when it is not there. `build` fills the path it is given (a file
 * or a directory); the product appears under its name in one rename, complete or not at all. Two processes that
 * ask at once build it once.
 */
export async function cached(
  parts: readonly string[],
  build: (target: string) => Promise<void>,
): Promise<string> {
  const path = cachePath(...parts)
  await registerUser(cacheRoot())
  if (await exists(path)) {
    // Marks the product as used, for prune(); a read-only cache that already has it is still good.
    await utimes(path, new Date(), new Date()).catch(() => {})
    return path
  }
  return withLock(parts.join('-'), async () => {
    if (await exists(path)) return path
    const scratch = await scratchDirectory()
    try {
      const target = join(scratch, 'product')
      await build(target)
      await makeDirectory(dirname(path))
      await rename(target, path)
    } catch (error) {
      throw storageError(path, error)
    } finally {
      await rm(scratch, { recursive: true, force: true })
    }
    return path
  })
}

/**
 * Deletes all but the `keep` most recently used products of one cache folder. Those used within the last
 * `minutes` stay whatever their number: a run may be about to open them.
 */
export async function prune(folder: string, keep: number, minutes = 60): Promise<void> {
  const root = cachePath(folder)
  const names = await readdir(root).catch(() => [])
  const aged = await Promise.all(
    names.map(async (name) => ({
      name,
      used: await stat(join(root, name)).then(
        (s) => s.mtimeMs,
        () => 0,
      ),
    })),
  )
  aged.sort((a, b) => b.used - a.used)
  const youngest = Date.now() - minutes * 60_000
  for (const old of aged.slice(keep)) {
    if (old.used < youngest) await rm(join(root, old.name), { recursive: true, force: true }).catch(() => {})
  }
}
