/** A line longer than this from a guest is not a command. */
const MAX_LINE = 64 * 1024

/** Lines and counted bytes out of an endless stream of chunks; takes no chunk before it is asked for one. */
export class ByteReader {
  readonly #chunks: AsyncIterator<Uint8Array>
  #rest: Uint8Array = new Uint8Array(0)

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#chunks = source[Symbol.asyncIterator]()
  }

  /** The next bytes, at most `limit`; undefined at the end. */
  async read(limit = Number.POSITIVE_INFINITY): Promise<Uint8Array | undefined> {
    while (this.#rest.length === 0) {
      const next = await this.#chunks.next()
      if (next.done) return undefined
      this.#rest = next.value
    }
    const bytes = this.#rest.subarray(0, Math.min(limit, this.#rest.length))
    this.#rest = this.#rest.subarray(bytes.length)
    return bytes
  }

  /** Exactly `count` bytes, piece by piece; false when the stream ended before. */
  async each(count: number, use: (bytes: Uint8Array) => void): Promise<boolean> {
    for (let left = count; left > 0; ) {
      const bytes = await this.read(left)
      if (!bytes) return false
      use(bytes)
      left -= bytes.length
    }
    return true
  }

  /** The next line without its end; undefined at the end of the stream. */
  async line(): Promise<string | undefined> {
    const parts: Uint8Array[] = []
    for (let size = 0; size < MAX_LINE; ) {
      const bytes = await this.read()
      if (!bytes) return undefined
      const end = bytes.indexOf(0x0a)
      if (end >= 0) {
        this.#rest = joined(bytes.subarray(end + 1), this.#rest)
        parts.push(bytes.subarray(0, end))
        return Buffer.concat(parts).toString('utf8').replace(/\r$/, '')
      }
      parts.push(bytes)
      size += bytes.length
    }
    return Buffer.concat(parts).toString('utf8')
  }

  /** Lets the source go. */
  async close(): Promise<void> {
    await this.#chunks.return?.()
  }
}

function joined(first: Uint8Array, second: Uint8Array): Uint8Array {
  return second.length === 0 ? first : Buffer.concat([first, second])
}
