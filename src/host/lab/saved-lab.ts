import { createHash, randomUUID } from 'node:crypto'
import {
  type FileHandle,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  statfs,
  utimes,
  writeFile,
} from 'node:fs/promises'
import { join } from 'node:path'
import { parseSize } from '../../budget/memory.ts'
import { cachePath, makeDirectory, withLock } from '../../image/cache.ts'
import { textHash } from '../../image/hash.ts'
import { KvitestError } from '../../native/error.ts'
import { PageSet } from './lab-memory.ts'
import type { LabContents, LabStatus } from './rpc.ts'

/** Raised with every change of what is in the files or of what a restored lab is asked. */
export const savedLabFormat = 1

const largestState = 16 << 20
const largestManifest = 4 << 20

/** What is in the directory of one saved lab, beside `ram` (sparse), `pages` (PageSet) and `state` (QEMU's devices). */
export interface SavedLabManifest {
  format: number
  /** `debian:6.12-cloud`, for people. */
  kernel: string
  /** ISO 8601 */
  created: string
  /** `data`: bytes of it that are not holes. `modified`: mtime in milliseconds. */
  ram: { size: number; data: number; modified: number }
  pages: { sha256: string }
  state: { size: number; sha256: string }
  contents: LabContents
}

/** What decides whether a saved lab can go on here: any other value of any of these is another lab. */
export interface SavedLabParts {
  /** Content hashes of the lab's initramfs and its kernel. */
  image: string
  kernel: string
  /** Identifies the QEMU binary. */
  qemu: string
  /** Command line without the paths of files. */
  arguments: readonly string[]
  /** Model of this machine's CPU, with its features where guests see them: clocks and instructions come from it. */
  cpu: string
}

export function savedLabKey(parts: SavedLabParts): string {
  const { image, kernel, qemu, cpu } = parts
  return textHash(JSON.stringify([savedLabFormat, image, kernel, qemu, parts.arguments, cpu])).slice(0, 32)
}

/** A saved lab with its files open, so that nobody can change them under a lab that starts from them. */
export interface OpenSavedLab {
  key: string
  manifest: SavedLabManifest
  ram: FileHandle
  state: FileHandle
  pages: PageSet
  close(): Promise<void>
}

/** What a lab that is being saved hands over. */
export interface NewSavedLab {
  kernel: string
  contents: LabContents
  /**
   * Writes the files `ram` and `state` into a directory. `room` makes sure that so many bytes may be written;
   * rejects with ENOSPC when they may not.
   */
  write(directory: string, room: (bytes: number) => Promise<void>): Promise<{ pages: PageSet; data: number }>
}

export interface SavedLabEntry {
  key: string
  kernel: string
  /** On the disk. */
  bytes: number
  /** Milliseconds since 1970. */
  used: number
}

function isManifest(value: unknown): value is SavedLabManifest {
  const it = value as SavedLabManifest | null
  const isSize = (number: unknown) => Number.isSafeInteger(number) && (number as number) >= 0
  const isHash = (text: unknown) => typeof text === 'string' && /^[0-9a-f]{64}$/.test(text)
  return (
    it !== null &&
    typeof it === 'object' &&
    it.format === savedLabFormat &&
    typeof it.kernel === 'string' &&
    typeof it.created === 'string' &&
    [it.ram?.size, it.ram?.data, it.state?.size].every(isSize) &&
    typeof it.ram.modified === 'number' &&
    [it.pages?.sha256, it.state?.sha256].every(isHash) &&
    Array.isArray(it.contents) &&
    it.contents.every((name) => typeof name === 'string')
  )
}

async function readManifest(directory: string): Promise<SavedLabManifest | undefined> {
  const path = join(directory, 'manifest.json')
  if ((await stat(path)).size > largestManifest) return undefined
  try {
    const value: unknown = JSON.parse(await readFile(path, 'utf8'))
    return isManifest(value) ? value : undefined
  } catch (error) {
    if (error instanceof SyntaxError) return undefined
    throw error
  }
}

function sha256(data: Buffer): string {
  return createHash('sha256').update(data).digest('hex')
}

class Unusable extends Error {}

/** The whole of a small file, by the descriptor that is handed on. */
async function contentOf(file: FileHandle, name: string, limit: number): Promise<Buffer> {
  const { size } = await file.stat()
  if (size > limit) throw new Unusable(`its ${name} has ${size} bytes`)
  const data = Buffer.alloc(size)
  for (let at = 0; at < size; ) {
    const { bytesRead } = await file.read(data, at, size - at, at)
    if (bytesRead === 0) throw new Unusable(`its ${name} shrinks`)
    at += bytesRead
  }
  return data
}

async function diskBytes(directory: string): Promise<number> {
  const names = await readdir(directory).catch(() => [])
  const sizes = await Promise.all(
    names.map((name) =>
      stat(join(directory, name)).then(
        (s) => s.blocks * 512,
        () => 0,
      ),
    ),
  )
  return sizes.reduce((sum, size) => sum + size, 0)
}

export interface SavedLabsOptions {
  /** Default `labs` in the cache. */
  directory?: string
  /** Bytes of all saved labs together. Default KVITEST_CACHE_LIMIT, else 8 GiB or a tenth of the room there is. */
  limit?: number
  /** One line each: what was dropped or not saved, and why. Default: standard error. */
  note?: (line: string) => void
}

/**
 * The lab to save at the end of a run: of those that are idle the one that holds most. None when the saved one holds as
 * much already. `status` is undefined of a lab that is in use or dead.
 */
export function labToSave<L extends { status: Pick<LabStatus, 'isTainted' | 'contents'> | undefined }>(
  labs: readonly L[],
  saved: Pick<SavedLabManifest, 'contents'> | undefined,
): L | undefined {
  // A kernel that has complained is not what the next run wants to begin with.
  const sound = labs.filter(({ status }) => status && !status.isTainted)
  const contents = (lab: L) => lab.status!.contents
  const [most] = sound.toSorted((a, b) => contents(b).length - contents(a).length)
  if (!most || (saved && contents(most).every((name) => saved.contents.includes(name)))) return undefined
  return most
}

/** Saved labs by key. Whatever is wrong with one is a note and a lab that boots, never an error of the run. */
export class SavedLabs {
  readonly note: (line: string) => void
  readonly #directory: string
  readonly #limit: number | undefined

  constructor(options: SavedLabsOptions = {}) {
    this.#directory = options.directory ?? cachePath('labs')
    this.#limit = options.limit
    this.note = options.note ?? ((line) => console.warn(`kvitest: ${line}`))
  }

  /** Checks a saved lab and opens its files; undefined when there is none that is whole. */
  async open(key: string): Promise<OpenSavedLab | undefined> {
    const directory = this.#path(key)
    const files: FileHandle[] = []
    const opened = async (name: string) => {
      const file = await open(join(directory, name))
      files.push(file)
      return file
    }
    const close = async () => {
      await Promise.all(files.splice(0).map((file) => file.close()))
    }
    let kernel = key
    try {
      if (!(await this.#exists(key))) return undefined
      const manifest = await readManifest(directory)
      if (!manifest) throw new Unusable('its manifest is none of this version')
      kernel = manifest.kernel
      const [ram, state, pagesFile] = [await opened('ram'), await opened('state'), await opened('pages')]
      const { size, mtimeMs } = await ram.stat()
      if (size !== manifest.ram.size) throw new Unusable('its ram is truncated')
      if (mtimeMs !== manifest.ram.modified) throw new Unusable('its ram was changed')
      const states = await contentOf(state, 'state', largestState)
      if (states.length !== manifest.state.size) throw new Unusable('its state is truncated')
      if (sha256(states) !== manifest.state.sha256) throw new Unusable('its state was changed')
      const pages = await contentOf(pagesFile, 'pages', largestState)
      if (sha256(pages) !== manifest.pages.sha256) throw new Unusable('its pages were changed')
      const now = new Date()
      await utimes(join(directory, 'manifest.json'), now, now).catch(() => {})
      return { key, manifest, ram, state, pages: new PageSet(pages), close }
    } catch (error) {
      await close()
      const isMissing = (error as NodeJS.ErrnoException).code === 'ENOENT'
      const reason = isMissing ? 'a file of it is missing' : (error as Error).message
      await this.drop(key, kernel, reason)
      return undefined
    }
  }

  /** Removes one that is not good, with a note. `unless`: not when it has been replaced by another since. */
  async drop(key: string, kernel: string, reason: string, tried?: SavedLabManifest): Promise<void> {
    if (tried) {
      const now = await this.manifest(key)
      if (now && now.ram.modified !== tried.ram.modified) return
    }
    this.note(`the saved lab of ${kernel} was dropped: ${reason}`)
    await this.remove(key).catch((error: Error) => {
      this.note(`the saved lab of ${kernel} cannot be removed: ${error.message}`)
    })
  }

  async manifest(key: string): Promise<SavedLabManifest | undefined> {
    return readManifest(this.#path(key)).catch(() => undefined)
  }

  /** A lab that runs from it goes on: it holds its files itself. */
  async remove(key: string): Promise<void> {
    const gone = this.#scratch()
    try {
      await rename(this.#path(key), gone)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    }
    await rm(gone, { recursive: true, force: true })
  }

  /** The least recently used first. */
  async list(): Promise<SavedLabEntry[]> {
    const names = await readdir(this.#directory).catch(() => [])
    const entries = await Promise.all(
      names
        .filter((name) => /^[0-9a-f]{32}$/.test(name))
        .map(async (key): Promise<SavedLabEntry> => {
          const directory = this.#path(key)
          const [manifest, bytes, used] = await Promise.all([
            this.manifest(key),
            diskBytes(directory),
            stat(join(directory, 'manifest.json')).then(
              (s) => s.mtimeMs,
              () => 0,
            ),
          ])
          return { key, kernel: manifest?.kernel ?? 'unreadable', bytes, used }
        }),
    )
    return entries.sort((a, b) => a.used - b.used)
  }

  /** Saves a lab in place of what has its key. Never rejects: what went wrong is a note, and nothing stays behind. */
  async save(key: string, lab: NewSavedLab): Promise<boolean> {
    const scratch = this.#scratch()
    try {
      await makeDirectory(this.#directory)
      await this.#sweep()
      return await withLock(`labs-${key}`, async () => {
        await mkdir(scratch)
        const { pages, data } = await lab.write(scratch, (bytes) => this.#makeRoom(bytes, key))
        await this.#complete(scratch, lab, pages, data)
        await this.remove(key)
        await rename(scratch, this.#path(key))
        return true
      })
    } catch (error) {
      this.note(`the lab of ${lab.kernel} was not saved: ${(error as Error).message}`)
      return false
    } finally {
      await rm(scratch, { recursive: true, force: true }).catch(() => {})
    }
  }

  #path(key: string): string {
    return join(this.#directory, key)
  }

  /** On the same file system as the final place; named by our pid, for the sweep. */
  #scratch(): string {
    return join(this.#directory, `new-${process.pid}-${randomUUID()}`)
  }

  async #exists(key: string): Promise<boolean> {
    return stat(this.#path(key)).then(
      () => true,
      () => false,
    )
  }

  /** The manifest comes last: without it the rest is nothing. */
  async #complete(directory: string, lab: NewSavedLab, pages: PageSet, data: number): Promise<void> {
    const state = await readFile(join(directory, 'state'))
    const ram = await stat(join(directory, 'ram'))
    await writeFile(join(directory, 'pages'), pages.bits)
    const manifest: SavedLabManifest = {
      format: savedLabFormat,
      kernel: lab.kernel,
      created: new Date().toISOString(),
      ram: { size: ram.size, data, modified: ram.mtimeMs },
      pages: { sha256: sha256(pages.bits) },
      state: { size: state.length, sha256: sha256(state) },
      contents: lab.contents,
    }
    await writeFile(join(directory, 'manifest.json'), JSON.stringify(manifest))
  }

  /** What a process that was killed while it saved left behind. */
  async #sweep(): Promise<void> {
    for (const name of await readdir(this.#directory)) {
      const pid = /^new-(\d+)-/.exec(name)?.[1]
      if (!pid || (await stat(`/proc/${pid}`).catch(() => undefined))) continue
      await rm(join(this.#directory, name), { recursive: true, force: true }).catch(() => {})
    }
  }

  /** Removes the least recently used ones until `bytes` more fit; `key` is about to be replaced. */
  async #makeRoom(bytes: number, key: string): Promise<void> {
    const entries = (await this.list()).filter((entry) => entry.key !== key)
    const { bavail, bsize } = await statfs(this.#directory)
    let taken = entries.reduce((sum, entry) => sum + entry.bytes, 0)
    const limit = this.#limit ?? cacheLimit(bavail * bsize + taken)
    const hint = 'free some space there, or set KVITEST_CACHE_LIMIT'
    if (bytes > limit) {
      throw new KvitestError('save a lab', `${bytes} bytes, over the limit of ${limit} for saved labs`, {
        code: 'ENOSPC',
        hint,
      })
    }
    for (const entry of entries) {
      if (taken + bytes <= limit) break
      await this.remove(entry.key)
      taken -= entry.bytes
    }
    const after = await statfs(this.#directory)
    if (bytes > after.bavail * after.bsize) {
      throw new KvitestError('save a lab', `${bytes} bytes do not fit on the file system of the cache`, {
        code: 'ENOSPC',
        hint,
      })
    }
  }
}

/** Bytes of all saved labs together, of the `room` that they could take. */
export function cacheLimit(room: number): number {
  const { KVITEST_CACHE_LIMIT } = process.env
  return KVITEST_CACHE_LIMIT ? parseSize(KVITEST_CACHE_LIMIT) : Math.min(8 * 2 ** 30, Math.floor(room / 10))
}
