import { KvitestError } from '../../native/error.ts'
import { frameHeader, framePayloadMax } from './protocol.ts'

export interface Frame {
  type: number
  /** Which process or request; 0 for the connection. */
  id: number
  payload: Buffer
}

export function encodeFrame(type: number, id: number, ...payload: Uint8Array[]): Buffer {
  const length = payload.reduce((sum, part) => sum + part.byteLength, 0)
  if (length > framePayloadMax) {
    throw new KvitestError('agent request', `${length} bytes of arguments do not fit a frame`, {
      code: 'E2BIG',
      hint: `pass at most ${framePayloadMax} bytes, the rest through stdin or a file`,
    })
  }
  const header = Buffer.alloc(frameHeader)
  header.writeUInt32LE(length, 0)
  header.writeUInt16LE(type, 4)
  header.writeUInt32LE(id, 8)
  return Buffer.concat([header, ...payload])
}

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16LE(value)
  return bytes
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

export function text(value: string): Buffer {
  if (value.includes('\0')) {
    throw new KvitestError('agent request', `a NUL character in ${JSON.stringify(value)}`, {
      code: 'EINVAL',
      hint: 'no argument, variable or path can hold one',
    })
  }
  return Buffer.from(`${value}\0`)
}

export function textList(values: readonly string[]): Buffer {
  return Buffer.concat([u32(values.length), ...values.map(text)])
}

/** Reads the fields of one payload in order; throws a RangeError past its end. */
export class PayloadReader {
  readonly #payload: Buffer
  #at = 0

  constructor(payload: Buffer) {
    this.#payload = payload
  }

  u32(): number {
    const value = this.#payload.readUInt32LE(this.#at)
    this.#at += 4
    return value
  }

  u64(): number {
    const value = this.#payload.readBigUInt64LE(this.#at)
    this.#at += 8
    return Number(value)
  }

  text(): string {
    const end = this.#payload.indexOf(0, this.#at)
    if (end < 0) throw new RangeError('a string without its end')
    const value = this.#payload.toString('utf8', this.#at, end)
    this.#at = end + 1
    return value
  }

  textList(): string[] {
    const count = this.u32()
    if (count > this.#payload.length) throw new RangeError('a list longer than its payload')
    return Array.from({ length: count }, () => this.text())
  }
}

/** Cuts a byte stream into frames, in chunks of any size. */
export class FrameDecoder {
  #chunks: Buffer[] = []
  #length = 0
  #needed = frameHeader

  /** A copy of the bytes of a frame that is not complete yet. */
  partial(): Buffer {
    return Buffer.concat(this.#chunks)
  }

  /** Yields the frames that `chunk` completes; throws a KvitestError when the stream is no stream of frames. */
  *push(chunk: Uint8Array): Generator<Frame> {
    this.#chunks.push(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength))
    this.#length += chunk.byteLength
    while (this.#length >= this.#needed) {
      const bytes = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks)
      const length = bytes.readUInt32LE(0)
      if (length > framePayloadMax || bytes.readUInt16LE(6) !== 0) {
        throw new KvitestError('agent protocol', `the agent's port carries bytes that are no frame`, {
          code: 'EPROTO',
          hint: 'something in the guest wrote to the port, or the initramfs holds an agent of another version',
        })
      }
      this.#needed = frameHeader + length
      const complete = bytes.length >= this.#needed
      const rest = complete ? bytes.subarray(this.#needed) : bytes
      const frame = {
        type: bytes.readUInt16LE(4),
        id: bytes.readUInt32LE(8),
        payload: bytes.subarray(frameHeader, this.#needed),
      }
      this.#chunks = rest.length > 0 ? [rest] : []
      this.#length = rest.length
      if (complete) {
        this.#needed = frameHeader
        yield frame
      }
    }
  }
}
