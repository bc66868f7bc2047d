import { connect, type Socket } from 'node:net'
import { deserialize, serialize } from 'node:v8'
import type { BirpcReturn } from 'birpc'
import { currentHolder } from '../../budget/holder.ts'
import { beginWaiting } from '../../budget/process-budget.ts'
import type { MachineEvent } from '../../native/contract.ts'
import { KvitestError } from '../../native/error.ts'
import { encodeFrame, FrameReader, frameKind } from './frame.ts'
import {
  type ClientFunctions,
  type ClientRequest,
  fromWire,
  type LabFunctions,
  openRpc,
  protocolVersion,
  type SessionLost,
  type SessionOpened,
} from './rpc.ts'

export type LabRpc = BirpcReturn<LabFunctions, ClientFunctions>

export type OpenedSession = Extract<SessionOpened, { type: 'opened' }>

/** One connection to a broker: one session in a lab. */
export class LabConnection {
  readonly rpc: LabRpc
  /** Rejects when the lab dies or the connection breaks; never resolves. */
  readonly lost: Promise<never>
  readonly #socket: Socket
  readonly #opened = Promise.withResolvers<OpenedSession>()
  readonly #lost = Promise.withResolvers<never>()
  #onWaiting: (what: string) => void = () => {}
  #isClosed = false

  constructor(
    socketPath: string,
    onEvent: (event: MachineEvent) => void,
    onOutput: ClientFunctions['output'] = () => {},
  ) {
    this.lost = this.#lost.promise
    this.lost.catch(() => {})
    this.#opened.promise.catch(() => {})
    this.#socket = connect(socketPath)
    const { rpc, receive } = openRpc<LabFunctions, ClientFunctions>(
      { event: onEvent, output: onOutput },
      ['consumed'],
      (message) => {
        this.#socket.write(encodeFrame(frameKind.data, message))
      },
    )
    this.rpc = rpc
    const reader = new FrameReader((kind, payload) => {
      if (kind === frameKind.data) receive(payload)
      else this.#control(deserialize(payload) as SessionOpened | SessionLost)
    })
    this.#socket.on('data', (chunk: Buffer) => reader.write(chunk))
    this.#socket.on('error', (error: NodeJS.ErrnoException) => {
      const isGone = error.code === 'ENOENT' || error.code === 'ECONNREFUSED'
      this.#fail(
        new KvitestError('reach the labs', `${socketPath}: ${isGone ? 'nobody serves it' : error.message}`, {
          code: error.code,
          hint: isGone ? 'unset KVITEST_LAB_SOCKET to let this process start its own' : undefined,
          cause: error,
        }),
      )
    })
    this.#socket.on('close', () => {
      this.#fail(new KvitestError('use a lab', 'the process that owns the labs went away', { code: 'EPIPE' }))
    })
  }

  /** Asks for a session; resolves when its lab runs. */
  async open(request: Omit<ClientRequest, 'version' | 'holder' | 'within'>): Promise<OpenedSession> {
    const holder = currentHolder()
    const own = (id: string) => `${process.pid} ${id}`
    const message: ClientRequest = {
      version: protocolVersion,
      ...request,
      holder: own(holder.id),
      ...(holder.within === undefined ? {} : { within: own(holder.within) }),
    }
    let endWaiting: (() => void) | undefined
    const onAbort = () => {
      if (endWaiting) this.close()
    }
    this.#onWaiting = (what) => {
      endWaiting ??= beginWaiting(what, holder)
      if (holder.signal?.aborted) this.close()
    }
    holder.signal?.addEventListener('abort', onAbort)
    this.#socket.write(encodeFrame(frameKind.control, serialize(message)))
    try {
      return await this.#opened.promise
    } finally {
      endWaiting?.()
      holder.signal?.removeEventListener('abort', onAbort)
    }
  }

  /** Ends the session; the lab stops its machine. */
  close(): void {
    if (this.#isClosed) return
    this.#fail(new KvitestError('use a lab', 'the session was closed', { code: 'ECANCELED' }))
    this.#socket.end()
  }

  #control(message: SessionOpened | SessionLost): void {
    if (message.type === 'opened') this.#opened.resolve(message)
    else if (message.type === 'waiting') this.#onWaiting(message.what)
    else this.#fail(fromWire(message.error))
  }

  #fail(error: KvitestError): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#opened.reject(error)
    this.#lost.reject(error)
    // birpc hands the error to every call that still waits, and refuses later ones.
    this.rpc.$close(error)
  }
}
