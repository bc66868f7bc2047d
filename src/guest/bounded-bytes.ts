const firstSize = 16 * 1024

/** Output of unknown length: all of it up to a limit, then its head and its tail, with a line between them. */
export class BoundedBytes {
  readonly #half: number
  #head = Buffer.alloc(0)
  #headLength = 0
  /** A ring, made when the head is full. */
  #tail: Buffer | undefined
  #tailEnd = 0
  #tailTotal = 0

  /** `limit` in bytes. */
  constructor(limit: number) {
    this.#half = Math.ceil(limit / 2)
  }

  /** Keeps a copy. */
  push(data: Uint8Array): void {
    const room = Math.min(this.#half - this.#headLength, data.length)
    if (room > 0) this.#pushHead(data.subarray(0, room))
    if (room < data.length) this.#pushTail(data.subarray(room))
  }

  /** Bytes that may yet be left out begin here. */
  get headLimit(): number {
    return this.#half
  }

  /** Where what is left out ends, counted from the first byte; 0 while nothing is. */
  get leftOutEnd(): number {
    const dropped = this.#tailTotal - (this.#tail?.length ?? 0)
    return dropped > 0 ? this.#half + dropped : 0
  }

  /** `instead` goes where something is left out: whole lines. */
  toString(instead = ''): string {
    const head = this.#head.subarray(0, this.#headLength)
    const tail = this.#tail ?? Buffer.alloc(0)
    const dropped = this.#tailTotal - tail.length
    if (dropped <= 0) return Buffer.concat([head, tail.subarray(0, this.#tailTotal)]).toString()
    const ordered = Buffer.concat([tail.subarray(this.#tailEnd), tail.subarray(0, this.#tailEnd)])
    return `${head.toString()}\n[... ${dropped} bytes left out ...]\n${instead}${ordered.toString()}`
  }

  #pushHead(data: Uint8Array): void {
    const needed = this.#headLength + data.length
    if (needed > this.#head.length) {
      const size = Math.min(Math.max(needed, 2 * this.#head.length, firstSize), this.#half)
      const grown = Buffer.allocUnsafe(size)
      this.#head.copy(grown, 0, 0, this.#headLength)
      this.#head = grown
    }
    this.#head.set(data, this.#headLength)
    this.#headLength = needed
  }

  #pushTail(data: Uint8Array): void {
    this.#tail ??= Buffer.allocUnsafe(this.#half)
    this.#tailTotal += data.length
    const kept = data.subarray(Math.max(0, data.length - this.#half))
    const first = kept.subarray(0, this.#half - this.#tailEnd)
    this.#tail.set(first, this.#tailEnd)
    this.#tail.set(kept.subarray(first.length), 0)
    this.#tailEnd = (this.#tailEnd + kept.length) % this.#half
  }
}
