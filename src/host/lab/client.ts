import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { deserialize, serialize } from 'node:v8'
import type { BirpcReturn } from 'birpc'
import { fileHash } from '../../image/hash.ts'
import type { Channel, MachineEnd, MachineEvent, MachineSpec, VcpuState } from '../../native/contract.ts'
import { KvitestError } from '../../native/error.ts'
import type { HostInfo, HostMachine, MachineHost } from '../machine-host.ts'
import { encodeFrame, FrameReader, frameKind } from './frame.ts'
import {
  type ClientFunctions,
  chunkSize,
  fromWire,
  type LabFunctions,
  openRpc,
  protocolVersion,
  type SessionLost,
  type SessionOpened,
} from './rpc.ts'

/** Calls of one transfer on their way at once: enough to hide the round trip, little enough to stay small. */
const window = 4

type LabRpc = BirpcReturn<LabFunctions, ClientFunctions>

/** One connection to a broker: one session in a lab. */
export class LabConnection {
  readonly rpc: LabRpc
  /** Rejects when the lab dies or the connection breaks; never resolves. */
  readonly lost: Promise<never>
  readonly #socket: Socket
  readonly #opened = Promise.withResolvers<Extract<SessionOpened, { type: 'opened' }>>()
  readonly #lost = Promise.withResolvers<never>()
  #isClosed = false

  constructor(socketPath: string, onEvent: (event: MachineEvent) => void) {
    this.lost = this.#lost.promise
    this.lost.catch(() => {})
    this.#opened.promise.catch(() => {})
    this.#socket = connect(socketPath)
    const { rpc, receive } = openRpc<LabFunctions, ClientFunctions>(
      { event: onEvent },
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
  async open(
    kernel: string,
    cpus: number,
    memory: number,
  ): Promise<Extract<SessionOpened, { type: 'opened' }>> {
    const request = { version: protocolVersion, kernel, cpus, memory }
    this.#socket.write(encodeFrame(frameKind.control, serialize(request)))
    return this.#opened.promise
  }

  /** Ends the session; the lab stops its machine. */
  close(): void {
    if (this.#isClosed) return
    this.#fail(new KvitestError('use a lab', 'the session was closed', { code: 'ECANCELED' }))
    this.#socket.end()
  }

  #control(message: SessionOpened | SessionLost): void {
    if (message.type === 'opened') this.#opened.resolve(message)
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

async function sendFile(rpc: LabRpc, path: string): Promise<string> {
  const sha256 = await fileHash(path)
  const { size } = await stat(path)
  if ((await rpc.ensureBlob(sha256, size)) === 'present') return sha256
  const hash = createHash('sha256')
  const onTheWay: Promise<void>[] = []
  let bytes = 0
  for await (const chunk of createReadStream(path, { highWaterMark: chunkSize, end: size - 1 })) {
    hash.update(chunk as Buffer)
    bytes += (chunk as Buffer).length
    const isLast = bytes === size
    if (isLast && hash.digest('hex') !== sha256) break
    if (onTheWay.length >= window) await onTheWay.shift()
    const sent = rpc.writeBlob(sha256, chunk as Buffer)
    sent.catch(() => {})
    onTheWay.push(sent)
    if (isLast) {
      await Promise.all(onTheWay)
      return sha256
    }
  }
  throw new KvitestError('send a file to the lab', `${path}: it changed while it was sent`, {
    code: 'EILSEQ',
    hint: 'try again',
  })
}

async function sendPayload(rpc: LabRpc, spec: MachineSpec): Promise<MachineSpec> {
  const { payload } = spec
  if (payload.kind === 'bare')
    return { ...spec, payload: { ...payload, elf: await sendFile(rpc, payload.elf) } }
  const kernel = await sendFile(rpc, payload.kernel)
  const initramfs =
    payload.initramfs === undefined ? {} : { initramfs: await sendFile(rpc, payload.initramfs) }
  return { ...spec, payload: { ...payload, kernel, ...initramfs } }
}

class LabMachine implements HostMachine {
  readonly ended: Promise<MachineEnd>
  readonly #connection: LabConnection
  readonly #rpc: LabRpc
  readonly #writes = new Map<Channel, Promise<void>>()
  readonly #onClosed: () => void
  #stopping: Promise<MachineEnd> | undefined

  constructor(connection: LabConnection, end: Promise<MachineEnd>, onClosed: () => void) {
    this.#connection = connection
    this.#rpc = connection.rpc
    this.#onClosed = onClosed
    this.ended = Promise.race([end, connection.lost])
    this.ended.catch(() => {})
  }

  start(): Promise<void> {
    return this.#call(() => this.#rpc.start())
  }

  stop(): Promise<MachineEnd> {
    this.#stopping ??= this.#stop()
    return this.#stopping
  }

  write(channel: Channel, data: Uint8Array): Promise<void> {
    // One write after the other: a long one is cut into several calls.
    const before = this.#writes.get(channel) ?? Promise.resolve()
    const mine = before.then(() => this.#call(() => this.#send(channel, data)))
    this.#writes.set(
      channel,
      mine.catch(() => {}),
    )
    return mine
  }

  consumed(channel: Channel, bytes: number): void {
    if (!this.#rpc.$closed) this.#rpc.consumed(channel, bytes).catch(() => {})
  }

  setPortOpen(channel: Channel, open: boolean): Promise<void> {
    return this.#call(() => this.#rpc.setPortOpen(channel, open))
  }

  resize(channel: Channel, columns: number, rows: number): Promise<void> {
    return this.#call(() => this.#rpc.resize(channel, columns, rows))
  }

  inspect(): Promise<VcpuState[]> {
    return this.#call(() => this.#rpc.inspect())
  }

  nmi(): Promise<void> {
    return this.#call(() => this.#rpc.nmi())
  }

  /** After the session's end a call says why it ended. */
  async #call<T>(call: () => Promise<T>): Promise<T> {
    if (this.#rpc.$closed) return this.#connection.lost
    return call()
  }

  async #stop(): Promise<MachineEnd> {
    try {
      const end = await this.#call(() => this.#rpc.stop())
      // Every event, the end among them, was sent before the answer.
      await this.ended
      return end
    } finally {
      this.#connection.close()
      this.#onClosed()
    }
  }

  async #send(channel: Channel, data: Uint8Array): Promise<void> {
    const onTheWay: Promise<void>[] = []
    for (let at = 0; at < data.length || at === 0; at += chunkSize) {
      if (onTheWay.length >= window) await onTheWay.shift()
      const sent = this.#rpc.write(channel, data.subarray(at, at + chunkSize))
      sent.catch(() => {})
      onTheWay.push(sent)
    }
    await Promise.all(onTheWay)
  }
}

/** The labs of a broker as one host; every machine has its own session, put where there is least to do. */
export class LabHost implements MachineHost {
  readonly info: HostInfo
  readonly #socketPath: string
  readonly #kernel: string
  readonly #machines = new Set<LabMachine>()

  private constructor(socketPath: string, kernel: string, info: HostInfo) {
    this.#socketPath = socketPath
    this.#kernel = kernel
    this.info = info
  }

  /** Starts a lab of that kernel if none runs yet, and asks it what it is. */
  static async connect(socketPath: string, kernel: string): Promise<LabHost> {
    const connection = new LabConnection(socketPath, () => {})
    try {
      const opened = await connection.open(kernel, 0, 0)
      const lab = await connection.rpc.describe()
      return new LabHost(socketPath, kernel, {
        name: `lab:${kernel}`,
        kernelRelease: lab.kernelRelease,
        accelerator: opened.accelerator,
        cpus: lab.cpus * opened.labs,
        memory: lab.memory * opened.labs,
        kvm: lab.kvm,
      })
    } finally {
      connection.close()
    }
  }

  async createMachine(spec: MachineSpec, onEvent: (event: MachineEvent) => void): Promise<HostMachine> {
    const end = Promise.withResolvers<MachineEnd>()
    const connection = new LabConnection(this.#socketPath, (event) => {
      onEvent(event)
      if (event.type === 'end') end.resolve(event.end)
    })
    try {
      await connection.open(this.#kernel, spec.cpus, spec.memory)
      await connection.rpc.createMachine(await sendPayload(connection.rpc, spec))
    } catch (error) {
      connection.close()
      throw error
    }
    const machine: LabMachine = new LabMachine(connection, end.promise, () => this.#machines.delete(machine))
    this.#machines.add(machine)
    return machine
  }

  async close(): Promise<void> {
    await Promise.allSettled([...this.#machines].map((machine) => machine.stop()))
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
