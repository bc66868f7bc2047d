import { write } from 'node:fs'
import { promisify } from 'node:util'
import { encodeFrame, FrameReader } from './frame.ts'

const writeAsync = promisify(write)

/** virtio_console takes at most 32 KiB in one write. */
const writeSize = 32 << 10

/** Frames over a virtio-serial port: written to its character device, read from a pipe that carries what it gives. */
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
  async receive(
    input: AsyncIterable<Buffer>,
    onFrame: (tag: number, payload: Buffer) => void,
  ): Promise<void> {
    const reader = new FrameReader(onFrame)
    for await (const chunk of input) reader.write(chunk)
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
