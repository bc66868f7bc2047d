import type { Socket } from 'node:net'
import { KvitestError } from '../../native/error.ts'

/** No answer that we ask for comes near it. */
const longestLine = 1 << 20

interface Waiting {
  command: string
  settled: PromiseWithResolvers<unknown>
}

interface Answer {
  return?: unknown
  error?: { class: string; desc: string }
}

/** QEMU's control channel (QMP, docs/interop/qmp-spec.txt of QEMU): commands one after the other, events unread. */
export class Qmp {
  readonly #socket: Socket
  readonly #waiting: Waiting[] = []
  #text = ''
  #negotiated: Promise<unknown> | undefined
  #end: KvitestError | undefined

  constructor(socket: Socket) {
    this.#socket = socket
    socket.setEncoding('utf8')
    socket.on('data', (text: string) => this.#receive(text))
    socket.on('error', () => {}) // 'close' follows
    socket.on('close', () => this.#finish('QEMU closed the channel'))
  }

  /** The command's return value. Rejects with a KvitestError that carries QEMU's own words. */
  async execute<T = unknown>(command: string, args: Record<string, unknown> = {}): Promise<T> {
    this.#negotiated ??= this.#send('qmp_capabilities', {})
    await this.#negotiated
    return (await this.#send(command, args)) as T
  }

  #send(command: string, args: Record<string, unknown>): Promise<unknown> {
    if (this.#end) return Promise.reject(this.#end)
    const settled = Promise.withResolvers<unknown>()
    this.#waiting.push({ command, settled })
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`)
    return settled.promise
  }

  #receive(text: string): void {
    this.#text += text
    for (let end = this.#text.indexOf('\n'); end >= 0; end = this.#text.indexOf('\n')) {
      const line = this.#text.slice(0, end)
      this.#text = this.#text.slice(end + 1)
      if (line.trim() !== '') this.#answer(line)
    }
    if (this.#text.length > longestLine) this.#finish('a line without end')
  }

  #answer(line: string): void {
    let answer: Answer
    try {
      answer = JSON.parse(line) as Answer
    } catch {
      this.#finish('no JSON')
      return
    }
    // The greeting and events.
    if (!('return' in answer) && !('error' in answer)) return
    const waiting = this.#waiting.shift()
    if (answer.error) waiting?.settled.reject(failure(`${waiting.command}: ${answer.error.desc}`))
    else waiting?.settled.resolve(answer.return)
  }

  #finish(reason: string): void {
    this.#end ??= failure(reason)
    for (const { command, settled } of this.#waiting.splice(0))
      settled.reject(failure(`${command}: ${reason}`))
    this.#socket.destroy()
  }
}

function failure(detail: string): KvitestError {
  return new KvitestError('command QEMU', detail, { code: 'EINFRA' })
}
