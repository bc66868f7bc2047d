/** Output of unknown length: all of it up to a limit, then its head and its tail, with a line between them. */
export class BoundedBytes {
  readonly #half: number
  #head: Uint8Array[] = []
  #headLength = 0
  #tail: Uint8Array[] = []
  #tailLength = 0
  #dropped = 0

  /** `limit` bytes are kept, give or take the size of one chunk. */
  constructor(limit: number) {
    this.#half = Math.ceil(limit / 2)
  }

  /** Keeps a copy. */
  push(data: Uint8Array): void {
    const room = this.#half - this.#headLength
    if (room > 0) {
      const head = data.slice(0, room)
      this.#head.push(head)
      this.#headLength += head.length
    }
    if (data.length <= room) return
    const tail = data.slice(Math.max(room, 0))
    this.#tail.push(tail)
    this.#tailLength += tail.length
    while (this.#tailLength - this.#tail[0]!.length >= this.#half) {
      const gone = this.#tail.shift()!
      this.#tailLength -= gone.length
      this.#dropped += gone.length
    }
    // Many small chunks would make every shift() expensive.
    if (this.#tail.length > 4096) this.#tail = [Buffer.concat(this.#tail)]
  }

  toString(): string {
    const head = Buffer.concat(this.#head)
    const tail = Buffer.concat(this.#tail)
    if (this.#dropped === 0) return Buffer.concat([head, tail]).toString()
    return `${head.toString()}\n[... ${this.#dropped} bytes left out ...]\n${tail.toString()}`
  }
}
