import { type FileHandle, mkdir, open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { KvitestError } from '../../native/error.ts'

interface Upload {
  owner: object
  size: number
  written: number
  /** Writes on their way to the file system. */
  outstanding: number
  file?: FileHandle
  done: PromiseWithResolvers<void>
}

/**
 * Files by sha256 in a bounded directory (a lab's tmpfs). The least recently used unpinned ones make room.
 * `owner` is a session: it pins what it asked for until release().
 *
 * The sender checks the hash: under TCG hashing would take as long as the transfer.
 */
export class BlobStore {
  readonly #directory: string
  readonly #limit: number
  /** In order of use, the oldest first. */
  readonly #sizes = new Map<string, number>()
  readonly #uploads = new Map<string, Upload>()
  readonly #pins = new Map<string, Set<object>>()

  constructor(directory: string, limit: number) {
    this.#directory = directory
    this.#limit = limit
  }

  path(sha256: string): string {
    return join(this.#directory, sha256)
  }

  /** sha256 of every file that is there, the least recently used first. */
  names(): string[] {
    return [...this.#sizes.keys()]
  }

  async ensure(owner: object, sha256: string, size: number): Promise<'present' | 'send'> {
    if (!/^[0-9a-f]{64}$/.test(sha256)) {
      throw new KvitestError('store a file in the lab', `${sha256} is no sha256`, { code: 'EINVAL' })
    }
    for (let upload = this.#uploads.get(sha256); upload; upload = this.#uploads.get(sha256)) {
      await upload.done.promise
    }
    this.#pin(owner, sha256)
    const there = this.#sizes.get(sha256)
    if (there !== undefined) {
      this.#sizes.delete(sha256)
      this.#sizes.set(sha256, there)
      return 'present'
    }
    const upload: Upload = {
      owner,
      size,
      written: 0,
      outstanding: 0,
      done: Promise.withResolvers<void>(),
    }
    // Entered before the first await, so that a second caller sees it.
    this.#uploads.set(sha256, upload)
    try {
      await this.#makeRoom(size)
      await mkdir(this.#directory, { recursive: true })
      upload.file = await open(this.#partial(sha256), 'w')
      if (this.#uploads.get(sha256) !== upload) {
        throw new KvitestError('store a file in the lab', 'the session ended', { code: 'ECANCELED' })
      }
    } catch (error) {
      await this.#abandon(sha256, upload)
      throw error
    }
    if (size === 0) await this.#finish(sha256, upload)
    return size === 0 ? 'present' : 'send'
  }

  async write(owner: object, sha256: string, data: Uint8Array): Promise<void> {
    const upload = this.#uploads.get(sha256)
    if (upload?.owner !== owner || upload.file === undefined) {
      throw new KvitestError('store a file in the lab', `${sha256} was not asked for`, { code: 'EINVAL' })
    }
    // Counted before the await: several calls may be on their way, in order.
    const position = upload.written
    upload.written += data.length
    upload.outstanding++
    await upload.file.write(data, 0, data.length, position)
    upload.outstanding--
    if (upload.written >= upload.size && upload.outstanding === 0) await this.#finish(sha256, upload)
  }

  /** Ends the owner's unfinished uploads and its pins. */
  async release(owner: object): Promise<void> {
    for (const [sha256, upload] of this.#uploads)
      if (upload.owner === owner) await this.#abandon(sha256, upload)
    for (const [sha256, owners] of this.#pins) {
      owners.delete(owner)
      if (owners.size === 0) this.#pins.delete(sha256)
    }
  }

  #partial(sha256: string): string {
    return join(this.#directory, `${sha256}.partial`)
  }

  #pin(owner: object, sha256: string): void {
    const owners = this.#pins.get(sha256) ?? new Set()
    owners.add(owner)
    this.#pins.set(sha256, owners)
  }

  async #finish(sha256: string, upload: Upload): Promise<void> {
    if (upload.written !== upload.size) {
      await this.#abandon(sha256, upload)
      throw new KvitestError(
        'store a file in the lab',
        `${sha256}: ${upload.written} bytes came, ${upload.size} were promised`,
        {
          code: 'EILSEQ',
          hint: 'the file changed while it was sent: try again',
        },
      )
    }
    await upload.file?.close()
    await rename(this.#partial(sha256), this.path(sha256))
    this.#sizes.set(sha256, upload.size)
    this.#uploads.delete(sha256)
    upload.done.resolve()
  }

  async #abandon(sha256: string, upload: Upload): Promise<void> {
    await upload.file?.close().catch(() => {})
    if (this.#uploads.get(sha256) === upload) {
      // Those who wait for this file begin anew, so the rest of it must be gone first.
      await rm(this.#partial(sha256), { force: true })
      this.#uploads.delete(sha256)
    }
    upload.done.resolve()
  }

  /** Bytes stored and on their way. */
  #taken(): number {
    let sum = 0
    for (const size of this.#sizes.values()) sum += size
    for (const upload of this.#uploads.values()) sum += upload.size
    return sum
  }

  async #makeRoom(size: number): Promise<void> {
    for (const [sha256] of this.#sizes) {
      if (this.#taken() <= this.#limit) return
      if (this.#pins.has(sha256)) continue
      this.#sizes.delete(sha256)
      await rm(this.path(sha256), { force: true })
    }
    if (this.#taken() > this.#limit) {
      throw new KvitestError(
        'store a file in the lab',
        `${size} bytes do not fit: ${this.#limit} in all, the rest is in use`,
        {
          code: 'ENOSPC',
          hint: 'run fewer guests with different kernels at once, or give labs more memory (KVITEST_LAB_MEMORY)',
        },
      )
    }
  }
}
