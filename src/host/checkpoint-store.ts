import type { CheckpointInfo } from '../native/contract.ts'
import { KvitestError } from '../native/error.ts'

/** A checkpoint as a store holds it. */
export interface Storable {
  readonly info: CheckpointInfo
  release(): void
}

/** A checkpoint with what the owner of a fork must know: plain data that survives the structured clone algorithm. */
export interface Kept<C> {
  checkpoint: C
  sidecar: unknown
}

/** For who made a checkpoint again and again, and found it gone each time. */
export function neverKept(): KvitestError {
  return new KvitestError('fork a guest', 'its checkpoint went before it could be forked from', {
    code: 'EAGAIN',
    hint: 'other guests take all memory for checkpoints: run fewer kinds of guests at once',
  })
}

interface Entry<C> extends Kept<C> {
  pins: Set<object>
}

interface Making {
  owner: object
  done: PromiseWithResolvers<void>
}

/**
 * Checkpoints by key, bounded in bytes: the least recently used ones that nobody is forking from make room. `owner` is
 * who asks: a session, a call. What it pinned, and its duty to make a checkpoint, end with release().
 */
export class CheckpointStore<C extends Storable> {
  readonly #limit: number
  /** In order of use, the oldest first. */
  readonly #entries = new Map<string, Entry<C>>()
  readonly #making = new Map<string, Making>()
  #closed = false

  /** `limit` in bytes of RAM that the checkpoints hold. */
  constructor(limit: number) {
    this.#limit = limit
  }

  /** In order of use, the oldest first. */
  keys(): string[] {
    return [...this.#entries.keys()]
  }

  /** Bytes of RAM that the checkpoints hold. */
  bytes(): number {
    let sum = 0
    for (const { checkpoint } of this.#entries.values()) sum += checkpoint.info.bytes
    return sum
  }

  /**
   * The checkpoint, pinned until release(owner). Undefined: there is none, and the caller is the one to make it; others
   * wait until it is kept or its maker has let go, and then one of them is the next to try.
   */
  async take(owner: object, key: string): Promise<Kept<C> | undefined> {
    for (let making = this.#making.get(key); making; making = this.#making.get(key)) {
      if (making.owner === owner) break
      await making.done.promise
    }
    if (this.#closed) {
      throw new KvitestError('find a checkpoint', 'the store was closed', { code: 'ECANCELED' })
    }
    const entry = this.#entries.get(key)
    if (!entry) {
      if (!this.#making.has(key)) this.#making.set(key, { owner, done: Promise.withResolvers<void>() })
      return undefined
    }
    this.#entries.delete(key)
    this.#entries.set(key, entry)
    entry.pins.add(owner)
    return entry
  }

  /** Takes the checkpoint over, pinned for `owner`. One that is there already stays, and the new one is released. */
  keep(owner: object, key: string, kept: Kept<C>): void {
    const before = this.#entries.get(key)
    if (before || this.#closed) kept.checkpoint.release()
    if (this.#closed) return
    const entry = before ?? { ...kept, pins: new Set() }
    entry.pins.add(owner)
    this.#entries.set(key, entry)
    this.#finish(key)
    this.#trim()
  }

  release(owner: object): void {
    for (const [key, making] of this.#making) if (making.owner === owner) this.#finish(key)
    for (const { pins } of this.#entries.values()) pins.delete(owner)
    this.#trim()
  }

  /** Releases every checkpoint; forks live on. */
  close(): void {
    this.#closed = true
    for (const { checkpoint } of this.#entries.values()) checkpoint.release()
    this.#entries.clear()
    for (const key of [...this.#making.keys()]) this.#finish(key)
  }

  #finish(key: string): void {
    this.#making.get(key)?.done.resolve()
    this.#making.delete(key)
  }

  /** One that is too large for the limit by itself goes as soon as nobody forks from it any more. */
  #trim(): void {
    for (const [key, { checkpoint, pins }] of this.#entries) {
      if (this.bytes() <= this.#limit) return
      if (pins.size > 0) continue
      this.#entries.delete(key)
      checkpoint.release()
    }
  }
}
