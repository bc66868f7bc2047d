import { type FileHandle, mkdir, open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { NativeCheckpoint } from '../../native/contract.ts'
import { KvitestError } from '../../native/error.ts'
import { chunkSize, type LabCheckpointInfo, type SavedFormat } from './rpc.ts'

/** Most of a core is nothing: it need not be sent. */
const zeros = Buffer.alloc(chunkSize)

interface Held {
  checkpoint: NativeCheckpoint
  owner: object
}

/** The checkpoints in a lab that sessions hold by id. `owner` is a session: what it holds goes with release(). */
export class HeldCheckpoints {
  readonly #directory: string
  readonly #held = new Map<number, Held>()
  readonly #saved = new Map<object, { path: string; file: FileHandle; size: number }>()
  #nextId = 1

  /** `directory` for saved ones on their way out; made when needed. */
  constructor(directory: string) {
    this.#directory = directory
  }

  add(owner: object, checkpoint: NativeCheckpoint): LabCheckpointInfo {
    const id = this.#nextId++
    this.#held.set(id, { checkpoint, owner })
    return { id, info: checkpoint.info }
  }

  /** Throws ENOENT for an id that is none, or no more. */
  get(id: number): NativeCheckpoint {
    return this.#find(id).checkpoint
  }

  adopt(owner: object, id: number): void {
    this.#find(id).owner = owner
  }

  /** Hands it over: no session holds it any more. */
  take(id: number): NativeCheckpoint {
    const { checkpoint } = this.#find(id)
    this.#held.delete(id)
    return checkpoint
  }

  /** Writes it to a file, one a session at a time, and returns the file's size. */
  async save(owner: object, id: number, format: SavedFormat): Promise<number> {
    if (this.#saved.has(owner)) {
      throw new KvitestError('save a checkpoint', 'the session saves one already', { code: 'EBUSY' })
    }
    const path = join(this.#directory, `saved-${this.#nextId++}`)
    await mkdir(this.#directory, { recursive: true })
    const checkpoint = this.get(id)
    await (format === 'core' ? checkpoint.saveCore(path) : checkpoint.save(path))
    const file = await open(path)
    const { size } = await file.stat()
    this.#saved.set(owner, { path, file, size })
    return size
  }

  /** Bytes of the saved file, or how many zeros; with its last byte read it goes. */
  async read(owner: object, offset: number, length: number): Promise<Uint8Array | number> {
    const saved = this.#saved.get(owner)
    if (!saved) throw new KvitestError('save a checkpoint', 'the session saved none', { code: 'ENOENT' })
    const { bytesRead, buffer } = await saved.file.read(Buffer.alloc(length), 0, length, offset)
    if (offset + bytesRead >= saved.size) await this.#drop(owner)
    const bytes = buffer.subarray(0, bytesRead)
    return bytesRead > 0 && bytes.equals(zeros.subarray(0, bytesRead)) ? bytesRead : bytes
  }

  async release(owner: object): Promise<void> {
    for (const [id, held] of this.#held) {
      if (held.owner !== owner) continue
      this.#held.delete(id)
      held.checkpoint.release()
    }
    await this.#drop(owner)
  }

  #find(id: number): Held {
    const held = this.#held.get(id)
    if (held) return held
    throw new KvitestError('use a checkpoint', 'it was released, or its lab is another one', {
      code: 'ENOENT',
      hint: 'fork from it before release()',
    })
  }

  async #drop(owner: object): Promise<void> {
    const saved = this.#saved.get(owner)
    this.#saved.delete(owner)
    await saved?.file.close()
    if (saved) await rm(saved.path, { force: true })
  }
}
