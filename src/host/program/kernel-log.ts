import { closeSync, constants, openSync, readSync } from 'node:fs'

/** Longer than any record of the kernel (CONSOLE_EXT_LOG_MAX). */
const recordSize = 8192

/** The kernel log of the machine this process runs on, from a moment on (Documentation/ABI/testing/dev-kmsg). */
export class KernelLog {
  readonly #fd: number

  private constructor(fd: number) {
    this.#fd = fd
  }

  /** Undefined where this user may not read it. */
  static open(): KernelLog | undefined {
    let fd: number
    try {
      fd = openSync('/dev/kmsg', constants.O_RDONLY | constants.O_NONBLOCK)
    } catch {
      return undefined
    }
    const log = new KernelLog(fd)
    log.take()
    return log
  }

  /** Lines since it was opened or asked last, each as `[   12.345678] text`. */
  take(): string[] {
    const lines: string[] = []
    const record = Buffer.alloc(recordSize)
    for (;;) {
      try {
        const size = readSync(this.#fd, record)
        if (size === 0) return lines
        const line = lineOf(record.subarray(0, size).toString())
        if (line !== undefined) lines.push(line)
      } catch (error) {
        // EPIPE: the ring went round before we came; the next record is there.
        if ((error as NodeJS.ErrnoException).code !== 'EPIPE') return lines
      }
    }
  }

  close(): void {
    closeSync(this.#fd)
  }
}

/** `6,339,5140900,-;text` and lines that begin with a blank: what the record is about. */
function lineOf(record: string): string | undefined {
  const match = /^\d+,\d+,(\d+),[^;]*;([^\n]*)/.exec(record)
  if (!match) return undefined
  const seconds = (Number(match[1]) / 1e6).toFixed(6)
  return `[${seconds.padStart(12)}] ${match[2]}`
}
