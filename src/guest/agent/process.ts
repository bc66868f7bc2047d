import { constants } from 'node:os'
import { KvitestError } from '../../native/error.ts'
import type { GuestProcess } from '../types.ts'
import { encodeFrame, PayloadReader, u16, u32 } from './frames.ts'
import { exitKind, framePayloadMax, toAgent } from './protocol.ts'

export type ProcessExit = Awaited<GuestProcess['exited']>

export interface OutputListeners {
  onStdout?: ((data: Uint8Array) => void) | undefined
  onStderr?: ((data: Uint8Array) => void) | undefined
}

/** One process in a guest, from STARTED to EXIT. */
export class AgentProcess implements GuestProcess {
  readonly pid: number
  readonly exited: Promise<ProcessExit>
  readonly #id: number
  readonly #send: (frame: Buffer) => Promise<void>
  readonly #listeners: OutputListeners
  readonly #exit = Promise.withResolvers<ProcessExit>()
  #credit = 0
  #creditArrived = Promise.withResolvers<void>()
  #stdin: Promise<void> = Promise.resolve()
  #over: KvitestError | undefined

  constructor(id: number, pid: number, send: (frame: Buffer) => Promise<void>, listeners: OutputListeners) {
    this.#id = id
    this.pid = pid
    this.#send = send
    this.#listeners = listeners
    this.exited = this.#exit.promise
    // Whoever awaits it sees the failure; nobody has to.
    this.exited.catch(() => {})
    this.#creditArrived.promise.catch(() => {})
  }

  /** Rejects with code EPIPE when the process ends before it took the bytes. */
  writeStdin(data: Uint8Array | string): Promise<void> {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data
    return this.#inOrder(async () => {
      for (let at = 0; at < bytes.byteLength; ) {
        if (this.#over) throw this.#over
        if (this.#credit === 0) await this.#creditArrived.promise
        const length = Math.min(this.#credit, framePayloadMax, bytes.byteLength - at)
        if (length === 0) continue
        this.#credit -= length
        await this.#send(encodeFrame(toAgent.STDIN, this.#id, bytes.subarray(at, at + length)))
        at += length
      }
    })
  }

  closeStdin(): Promise<void> {
    return this.#inOrder(async () => {
      if (!this.#over) await this.#send(encodeFrame(toAgent.STDIN_EOF, this.#id))
    })
  }

  async kill(signal: string | number): Promise<void> {
    const number = typeof signal === 'number' ? signal : constants.signals[signal as NodeJS.Signals]
    if (!number) {
      throw new KvitestError('kill', `no signal ${signal}`, { code: 'EINVAL', hint: 'name it as SIGTERM' })
    }
    if (!this.#over) await this.#send(encodeFrame(toAgent.SIGNAL, this.#id, u32(number)))
  }

  async resize(rows: number, columns: number): Promise<void> {
    if (!this.#over) await this.#send(encodeFrame(toAgent.WINSIZE, this.#id, u16(rows), u16(columns)))
  }

  /** From the client: a frame about this process. */
  takeCredit(bytes: number): void {
    this.#credit += bytes
    this.#creditArrived.resolve()
    this.#creditArrived = Promise.withResolvers<void>()
    this.#creditArrived.promise.catch(() => {})
  }

  takeOutput(data: Uint8Array, stream: 'onStdout' | 'onStderr'): void {
    try {
      this.#listeners[stream]?.(data)
    } catch (error) {
      // A listener's error belongs to who waits for the process, not to the conversation.
      this.#exit.reject(error)
    }
  }

  takeExit(payload: Buffer): void {
    const reader = new PayloadReader(payload)
    const kind = reader.u32()
    const value = reader.u32()
    const duration = reader.u64() / 1000
    const signal = kind === exitKind.EXITED || value === 0 ? null : signalName(value)
    this.fail(
      new KvitestError('stdin', `process ${this.pid} has ended and took no more input`, {
        code: 'EPIPE',
        infra: false,
      }),
      {
        status: kind === exitKind.EXITED ? value : null,
        signal,
        timedOut: kind === exitKind.TIMED_OUT,
        duration,
      },
    )
  }

  /** Ends it: waiting writers get `error`, and so does `exited` unless there is an exit. */
  fail(error: KvitestError, exit?: ProcessExit): void {
    if (this.#over) return
    this.#over = error
    this.#creditArrived.reject(error)
    if (exit) this.#exit.resolve(exit)
    else this.#exit.reject(error)
  }

  #inOrder(work: () => Promise<void>): Promise<void> {
    const turn = this.#stdin.then(work)
    this.#stdin = turn.catch(() => {})
    return turn
  }
}

/** `SIGKILL` for 9; a real-time signal is `SIG40`. */
export function signalName(number: number): string {
  const known = Object.entries(constants.signals).find(([, value]) => value === number)
  return known ? known[0] : `SIG${number}`
}
