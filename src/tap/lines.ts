import { isUtf8 } from 'node:buffer'

/** Longest line kept, in bytes; the rest of a longer one is counted and dropped. */
export const MAX_LINE = 1024 * 1024

export interface Line {
  /** Without its end; control characters that would break a line apart are shown as pictures. */
  text: string
  /** 1-based. */
  number: number
  /** Bytes of the whole line as it came, without its end. */
  bytes: number
  truncated: boolean
  /** It held NUL bytes or was not UTF-8. */
  garbage: boolean
}

/** Cuts a byte stream into lines in linear time and with at most MAX_LINE bytes held. */
export class LineSplitter {
  readonly #onLine: (line: Line) => void
  readonly #encoder = new TextEncoder()
  #parts: Uint8Array[] = []
  #kept = 0
  #bytes = 0
  #number = 0

  constructor(onLine: (line: Line) => void) {
    this.#onLine = onLine
  }

  /** A chunk that is a string must not end inside a surrogate pair. */
  write(chunk: Uint8Array | string): void {
    const bytes = typeof chunk === 'string' ? this.#encoder.encode(chunk) : chunk
    let start = 0
    for (;;) {
      const end = bytes.indexOf(0x0a, start)
      if (end < 0) break
      this.#add(bytes.subarray(start, end))
      this.#flush()
      start = end + 1
    }
    this.#add(bytes.subarray(start))
  }

  /** Emits a last line that had no end. */
  end(): void {
    if (this.#bytes > 0) this.#flush()
  }

  #add(part: Uint8Array): void {
    this.#bytes += part.length
    const room = MAX_LINE - this.#kept
    if (part.length === 0 || room === 0) return
    // A copy, as the caller may reuse the memory of its chunk.
    const kept = Uint8Array.prototype.slice.call(part, 0, room)
    this.#parts.push(kept)
    this.#kept += kept.length
  }

  #flush(): void {
    const parts = this.#parts
    const raw = parts.length === 1 ? Buffer.from(parts[0]!.buffer) : Buffer.concat(parts)
    const bytes = this.#bytes
    this.#parts = []
    this.#kept = 0
    this.#bytes = 0
    this.#number++
    const truncated = bytes > MAX_LINE
    const whole = truncated ? raw.subarray(0, completeLength(raw)) : raw
    this.#onLine({
      text: printable(whole.toString('utf8')),
      number: this.#number,
      bytes,
      truncated,
      garbage: whole.includes(0) || !isUtf8(whole),
    })
  }
}

/** Length without a UTF-8 sequence that the cut left unfinished. */
function completeLength(raw: Buffer): number {
  for (let back = 1; back <= 3 && back <= raw.length; back++) {
    const byte = raw[raw.length - back]!
    if (byte < 0x80) return raw.length
    if (byte >= 0xc0) {
      const needed = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2
      return needed > back ? raw.length - back : raw.length
    }
  }
  return raw.length
}

/** tap-parser's patterns stop at these characters, though they end no line. */
function printable(text: string): string {
  const line = text.endsWith('\r') ? text.slice(0, -1) : text
  return line
    .replaceAll('\0', '\u2400')
    .replaceAll('\r', '\u240d')
    .replace(/[\u2028\u2029]/g, ' ')
}
