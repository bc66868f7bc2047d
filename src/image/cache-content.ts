import { randomUUID } from 'node:crypto'
import { lstat, mkdir, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { cacheRoot, storageError } from './cache.ts'
import { oldestUser } from './cache-users.ts'

/** One product, or one folder of many small ones. */
export interface CacheEntry {
  /** Folder of the cache: `kernels`, `vmlinux`, `initramfs`, `lab`, `labs`... */
  folder: string
  /** Name in it; empty when the folder is listed as a whole. */
  name: string
  path: string
  /** Bytes on the disk. */
  bytes: number
  /** Milliseconds since 1970. */
  used: number
}

/** The cache's own bookkeeping. A lock file that went away while it is held would be two locks. */
const housekeeping = new Set(['locks', 'tmp', 'users'])
/** Folders of many small files. */
const wholes = new Set(['apt', 'calibration', 'hashes', 'names'])

interface Measure {
  bytes: number
  newest: number
}

async function measure(path: string): Promise<Measure> {
  const found = await lstat(path).catch(() => undefined)
  if (!found) return { bytes: 0, newest: 0 }
  const self = { bytes: found.blocks * 512, newest: found.mtimeMs }
  if (!found.isDirectory()) return self
  const names = await readdir(path).catch(() => [])
  const parts = await Promise.all(names.map((name) => measure(join(path, name))))
  return parts.reduce(
    (sum, part) => ({ bytes: sum.bytes + part.bytes, newest: Math.max(sum.newest, part.newest) }),
    self,
  )
}

async function describe(folder: string, name: string): Promise<CacheEntry> {
  const path = join(cacheRoot(), folder, name)
  const { bytes, newest } = await measure(path)
  // Files in a product keep the times of their origin, which may lie in the future of a wrong clock.
  return { folder, name, path, bytes, used: Math.min(newest, Date.now()) }
}

/** Everything in the cache, the least recently used first. */
export async function cacheEntries(): Promise<CacheEntry[]> {
  const folders = await readdir(cacheRoot()).catch(() => [])
  const entries = await Promise.all(
    folders
      .filter((folder) => !housekeeping.has(folder))
      .map(async (folder) => {
        if (wholes.has(folder)) return [await describe(folder, '')]
        const names = await readdir(join(cacheRoot(), folder)).catch(() => [])
        return Promise.all(names.map((name) => describe(folder, name)))
      }),
  )
  return entries.flat().sort((a, b) => a.used - b.used)
}

export interface PruneOptions {
  /** Milliseconds: what was not used for so long goes. */
  olderThan?: number
  /** Bytes: the least recently used go until no more is left. */
  max?: number
}

export interface PruneResult {
  removed: CacheEntry[]
  /** Would have gone, but a running process may use them. */
  inUse: CacheEntry[]
}

/** Removes what either option names; what a living process has used stays. Rejects with a KvitestError. */
export async function pruneCache(options: PruneOptions): Promise<PruneResult> {
  const entries = await cacheEntries()
  const oldest = await oldestUser(cacheRoot())
  await sweepScratch()
  const youngest = Date.now() - (options.olderThan ?? Number.POSITIVE_INFINITY)
  let bytes = entries.reduce((sum, entry) => sum + entry.bytes, 0)
  const result: PruneResult = { removed: [], inUse: [] }
  for (const entry of entries) {
    const isTooMuch = options.max !== undefined && bytes > options.max
    if (entry.used > youngest && !isTooMuch) continue
    if (entry.used >= oldest) {
      result.inUse.push(entry)
      continue
    }
    await remove(entry.path)
    bytes -= entry.bytes
    result.removed.push(entry)
  }
  return result
}

/** Out of sight in one step: nobody finds half a product. */
async function remove(path: string): Promise<void> {
  const scratch = join(cacheRoot(), 'tmp')
  const gone = join(scratch, `${process.pid}-${randomUUID()}`)
  try {
    await mkdir(scratch, { recursive: true })
    await rename(path, gone)
    await rm(gone, { recursive: true, force: true })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw storageError(path, error)
  }
}

/** Scratch directories begin with the number of their process. */
async function sweepScratch(): Promise<void> {
  const scratch = join(cacheRoot(), 'tmp')
  for (const name of await readdir(scratch).catch(() => [])) {
    const pid = /^(\d+)-/.exec(name)?.[1]
    if (pid && (await lstat(`/proc/${pid}`).catch(() => undefined))) continue
    await rm(join(scratch, name), { recursive: true, force: true }).catch(() => {})
  }
}
