import { KvitestError } from '../native/error.ts'
import { BoundedBytes } from './bounded-bytes.ts'
import { ReportKeeper } from './report-keeper.ts'
import type { ConsoleLog } from './types.ts'

/** A line that never ends is cut here. */
const maxLine = 64 * 1024

interface Waiter {
  pattern: RegExp
  resolve: (line: string) => void
  reject: (error: Error) => void
}

/** The serial console of one guest: text kept, lines told as they end. */
export class SerialLog implements ConsoleLog {
  readonly #name: string
  readonly #bytes: BoundedBytes
  readonly #reports = new ReportKeeper()
  /** Bytes so far. */
  #total = 0
  #decoder = new TextDecoder()
  readonly #listeners = new Set<(line: string, milliseconds: number) => void>()
  readonly #waiters = new Set<Waiter>()
  #start = performance.now()
  #partial = ''
  #ended: string | undefined

  /** `name` of the guest, for errors; at most `limit` bytes are kept, and the kernel's reports among the others. */
  constructor(name: string, limit = 64 * 1024 * 1024) {
    this.#name = name
    this.#bytes = new BoundedBytes(limit)
  }

  /** The machine starts: times of lines count from here. */
  started(): void {
    this.#start = performance.now()
  }

  push(data: Uint8Array): void {
    const before = this.#total
    this.#bytes.push(data)
    this.#total += data.length
    const text = this.#partial + this.#decoder.decode(data, { stream: true })
    const lines = text.split('\n')
    this.#partial = lines.pop()!
    if (this.#partial.length > maxLine) {
      lines.push(this.#partial)
      this.#partial = ''
    }
    for (const line of lines) this.#tell(line.replace(/\r+$/, ''))
    if (this.#total <= this.#bytes.headLimit) return
    for (const line of lines) this.#reports.see(line, before)
  }

  /** What the console had shown at the checkpoint that the guest goes on from: kept, and told to nobody. */
  inherit(text: string): void {
    this.#bytes.push(Buffer.from(text))
    this.#partial = text.slice(text.lastIndexOf('\n') + 1)
  }

  /** A line of our own; the line that the guest was in ends before it. */
  note(line: string): void {
    const rest = this.#partial
    this.#partial = ''
    this.#decoder = new TextDecoder()
    this.#bytes.push(Buffer.from(`${rest === '' ? '' : '\n'}${line}\n`))
    if (rest !== '') this.#tell(rest)
    this.#tell(line)
  }

  /** The guest has ended: nothing more comes, and who still waits is told why. */
  end(reason: string): void {
    if (this.#ended !== undefined) return
    this.#ended = reason
    if (this.#partial !== '') this.#tell(this.#partial)
    this.#partial = ''
    for (const waiter of this.#waiters) {
      waiter.reject(this.#neverCame(waiter.pattern, `the guest has ended (${reason})`))
    }
    this.#waiters.clear()
  }

  text(): string {
    const reports = this.#reports.before(this.#bytes.leftOutEnd)
    return this.#bytes.toString(reports.map((line) => `${line}\n`).join('')).replaceAll('\r', '')
  }

  lines(): string[] {
    const lines = this.text().split('\n')
    if (lines.at(-1) === '') lines.pop()
    return lines
  }

  async waitFor(pattern: RegExp, timeout?: number): Promise<string> {
    const seen = this.lines().find((line) => matches(pattern, line))
    if (seen !== undefined) return seen
    if (this.#ended !== undefined) throw this.#neverCame(pattern, `the guest has ended (${this.#ended})`)
    const { promise, resolve, reject } = Promise.withResolvers<string>()
    const waiter: Waiter = { pattern, resolve, reject }
    this.#waiters.add(waiter)
    const expire = () => reject(this.#neverCame(pattern, `not within ${timeout} ms`))
    const timer = timeout === undefined ? undefined : setTimeout(expire, timeout)
    try {
      return await promise
    } finally {
      clearTimeout(timer)
      this.#waiters.delete(waiter)
    }
  }

  onLine(listener: (line: string, milliseconds: number) => void): () => void {
    this.#listeners.add(listener)
    return () => void this.#listeners.delete(listener)
  }

  #tell(line: string): void {
    const milliseconds = performance.now() - this.#start
    for (const listener of this.#listeners) listener(line, milliseconds)
    for (const waiter of this.#waiters) {
      if (matches(waiter.pattern, line)) waiter.resolve(line)
    }
  }

  #neverCame(pattern: RegExp, why: string): KvitestError {
    return new KvitestError(`console of ${this.#name}`, `no line matches ${pattern}: ${why}`, {
      code: 'ENODATA',
      infra: false,
    })
  }
}

/** Also right for patterns with the flags g or y, which remember where they stopped. */
function matches(pattern: RegExp, line: string): boolean {
  pattern.lastIndex = 0
  return pattern.test(line)
}
