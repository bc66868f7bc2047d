import { KvitestError } from '../../native/error.ts'

/**
 * Frames of the lab link: `u32 length, u32 tag`, little-endian, then `length` bytes.
 *
 * Between broker and lab the tag is the client's number (0: the link itself) and an empty frame ends that
 * client's session. Between client and broker the tag is one of `frameKind`.
 */
export const frameHeader = 8
export const maxFrame = 1 << 20

export const frameKind = {
  /** Bytes of the session's RPC, passed on unread. */
  data: 0,
  /** A v8-serialised ClientRequest, SessionOpened or SessionLost. */
  control: 1,
} as const

export function encodeFrame(tag: number, payload: Uint8Array): Buffer {
  if (payload.length > maxFrame) {
    throw new KvitestError(
      'send to the lab',
      `a message of ${payload.length} bytes, over the limit of ${maxFrame}`,
      {
        code: 'EMSGSIZE',
      },
    )
  }
  const frame = Buffer.allocUnsafe(frameHeader + payload.length)
  frame.writeUInt32LE(payload.length, 0)
  frame.writeUInt32LE(tag, 4)
  frame.set(payload, frameHeader)
  return frame
}

/** Cuts a byte stream into frames, whatever the sizes of its chunks. Payloads are copies, owned by the receiver. */
export class FrameReader {
  readonly #onFrame: (tag: number, payload: Buffer) => void
  readonly #header = Buffer.alloc(frameHeader)
  #headerFill = 0
  #payload: Buffer | undefined
  #payloadFill = 0

  constructor(onFrame: (tag: number, payload: Buffer) => void) {
    this.#onFrame = onFrame
  }

  /** Throws a KvitestError when the peer announces a frame over the limit: the stream is lost. */
  write(chunk: Uint8Array): void {
    let at = 0
    while (at < chunk.length) {
      if (this.#payload === undefined) {
        const part = chunk.subarray(at, at + frameHeader - this.#headerFill)
        this.#header.set(part, this.#headerFill)
        this.#headerFill += part.length
        at += part.length
        if (this.#headerFill < frameHeader) return
        const length = this.#header.readUInt32LE(0)
        if (length > maxFrame) {
          throw new KvitestError(
            'read from the lab link',
            `a frame of ${length} bytes, over the limit of ${maxFrame}`,
            {
              code: 'EPROTO',
            },
          )
        }
        this.#payload = Buffer.allocUnsafeSlow(length)
        this.#payloadFill = 0
      }
      const part = chunk.subarray(at, at + this.#payload.length - this.#payloadFill)
      this.#payload.set(part, this.#payloadFill)
      this.#payloadFill += part.length
      at += part.length
      if (this.#payloadFill < this.#payload.length) return
      const payload = this.#payload
      this.#payload = undefined
      this.#headerFill = 0
      this.#onFrame(this.#header.readUInt32LE(4), payload)
    }
  }
}
