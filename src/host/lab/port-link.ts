import { read, write } from 'node:fs'
import { promisify } from 'node:util'
import { encodeFrame, FrameReader } from './frame.ts'

const readAsync = promisify(read)
const writeAsync = promisify(write)

/** virtio_console takes at most 32 KiB in one write and gives at most one page in one read. */
const writeSize = 32 << 10

/** Frames over the character device of a virtio-serial port, opened for reading and writing. */
export class PortLink {
  readonly #fd: number
  readonly #onFailure: (error: Error) => void
  #queue: Buffer[] = []
  #isWriting = false

  constructor(fd: number, onFailure: (error: Error) => void) {
    this.#fd = fd
    this.#onFailure = onFailure
  }

  send(tag: number, payload: Uint8Array): void {
    this.#queue.push(encodeFrame(tag, payload))
    if (!this.#isWriting) this.#flush().catch(this.#onFailure)
  }

  /** Reads until the other side is gone. */
  async receive(onFrame: (tag: number, payload: Buffer) => void): Promise<void> {
    const reader = new FrameReader(onFrame)
    const buffer = Buffer.allocUnsafeSlow(64 << 10)
    for (;;) {
      const { bytesRead } = await readAsync(this.#fd, buffer, 0, buffer.length, null)
      if (bytesRead === 0) return
      reader.write(buffer.subarray(0, bytesRead))
    }
  }

  async #flush(): Promise<void> {
    this.#isWriting = true
    while (this.#queue.length > 0) {
      const data = this.#queue.length === 1 ? this.#queue[0]! : Buffer.concat(this.#queue)
      this.#queue = []
      for (let at = 0; at < data.length; ) {
        const { bytesWritten } = await writeAsync(
          this.#fd,
          data,
          at,
          Math.min(data.length - at, writeSize),
          null,
        )
        at += bytesWritten
      }
    }
    this.#isWriting = false
  }
}
