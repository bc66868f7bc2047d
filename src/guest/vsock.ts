import { Duplex } from 'node:stream'
import type { HostMachine } from '../host/machine-host.ts'
import type { Channel, MachineEvent } from '../native/contract.ts'
import { KvitestError } from '../native/error.ts'
import type { GuestVsock, VsockListener } from './types.ts'

type VsockEvent = Extract<MachineEvent, { type: 'vsock' }>

function over(name: string, detail: string, code: string): KvitestError {
  return new KvitestError(`vsock ${name}`, detail, { code, infra: false })
}

/** One connection as a stream. What nobody reads is held here up to the device's window, and then holds the guest back. */
class MachineSocket extends Duplex {
  readonly #channel: Channel
  readonly #machine: () => HostMachine
  #waiting: Uint8Array[] = []
  #ended = false
  #wanted = false

  constructor(channel: Channel, machine: () => HostMachine) {
    super()
    this.#channel = channel
    this.#machine = machine
  }

  receive(data: Uint8Array): void {
    this.#waiting.push(data)
    this.#give()
  }

  /** The guest sends no more. */
  guestEnded(): void {
    this.#ended = true
    this.#give()
  }

  /** The connection is over: what came before can still be read. */
  guestClosed(): void {
    this.guestEnded()
    this.end()
  }

  override _read(): void {
    this.#wanted = true
    this.#give()
  }

  override _write(data: Uint8Array, _encoding: string, done: (error?: Error) => void): void {
    this.#call((machine) => machine.write(this.#channel, data)).then(() => done(), done)
  }

  override _final(done: (error?: Error) => void): void {
    this.#call((machine) => machine.vsockClose(this.#channel, false)).then(() => done(), done)
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    // Of a guest that has ended there is nothing to close.
    this.#call((machine) => machine.vsockClose(this.#channel, true)).then(
      () => done(error),
      () => done(error),
    )
  }

  async #call(call: (machine: HostMachine) => Promise<void>): Promise<void> {
    await call(this.#machine())
  }

  #give(): void {
    while (this.#wanted) {
      const data = this.#waiting.shift()
      if (data) {
        this.#machine().consumed(this.#channel, data.byteLength)
        this.#wanted = this.push(data)
      } else {
        if (this.#ended) this.push(null)
        this.#wanted &&= !this.#ended
        return
      }
    }
  }
}

interface Listener {
  onSocket: (socket: Duplex) => void
}

/** The host's side of a guest's virtio-vsock device. */
export class MachineVsock implements GuestVsock {
  readonly name: string
  readonly #machine: () => HostMachine
  readonly #listeners = new Map<number, Listener>()
  readonly #sockets = new Map<Channel, MachineSocket>()
  /** What the guest answered, said and ended before connect() knew the channel, in order. */
  readonly #early = new Map<Channel, (VsockEvent | Uint8Array)[]>()
  readonly #connecting = new Map<Channel, PromiseWithResolvers<MachineSocket>>()
  #asking = 0

  constructor(name: string, machine: () => HostMachine) {
    this.name = name
    this.#machine = machine
  }

  async listen(port: number, onSocket: (socket: Duplex) => void): Promise<VsockListener> {
    if (this.#listeners.has(port)) throw over(this.name, `port ${port} is listened on already`, 'EADDRINUSE')
    this.#listeners.set(port, { onSocket })
    const close = async () => {
      if (this.#listeners.delete(port)) await this.#machine().vsockListen(this.name, port, false)
    }
    try {
      await this.#machine().vsockListen(this.name, port, true)
    } catch (error) {
      this.#listeners.delete(port)
      throw error
    }
    return { port, close, [Symbol.asyncDispose]: close }
  }

  async connect(port: number): Promise<Duplex> {
    const answer = Promise.withResolvers<MachineSocket>()
    this.#asking++
    try {
      const channel = await this.#machine().vsockConnect(this.name, port)
      this.#connecting.set(channel, answer)
      const early = this.#early.get(channel) ?? []
      this.#early.delete(channel)
      for (const item of early) {
        if (item instanceof Uint8Array) this.receive(channel, item)
        else this.onEvent(item)
      }
    } finally {
      if (--this.#asking === 0) this.#forgetEarly()
    }
    return await answer.promise
  }

  onEvent(event: VsockEvent): void {
    const socket = this.#sockets.get(event.channel)
    if (socket) {
      if (event.event === 'end') socket.guestEnded()
      if (event.event === 'close') {
        this.#sockets.delete(event.channel)
        socket.guestClosed()
      }
      return
    }
    if (this.#connecting.has(event.channel)) {
      this.#answered(event)
      return
    }
    const listener = event.event === 'open' ? this.#listeners.get(event.hostPort ?? -1) : undefined
    if (listener) listener.onSocket(this.#open(event.channel))
    // Of a connection that is asked for just now, or of one that nobody wants any more.
    else if (this.#asking > 0) this.#keepEarly(event.channel, event)
    else
      this.#machine()
        .vsockClose(event.channel, true)
        .catch(() => {})
  }

  receive(channel: Channel, data: Uint8Array): void {
    const socket = this.#sockets.get(channel)
    if (socket) socket.receive(data)
    else if (this.#early.has(channel)) this.#keepEarly(channel, data)
    else this.#machine().consumed(channel, data.byteLength)
  }

  /** The guest went back to its checkpoint: its connections never were, the host's ports are listened on. */
  reset(): void {
    this.#fail(over(this.name, 'the guest was reset to its checkpoint', 'ECANCELED'))
    for (const port of this.#listeners.keys()) {
      this.#machine()
        .vsockListen(this.name, port, true)
        .catch(() => {})
    }
  }

  end(reason: string): void {
    this.#fail(over(this.name, `the guest has ended (${reason})`, 'EPIPE'))
    this.#listeners.clear()
  }

  #keepEarly(channel: Channel, item: VsockEvent | Uint8Array): void {
    const items = this.#early.get(channel) ?? []
    items.push(item)
    this.#early.set(channel, items)
  }

  /** Whose connect() has failed meanwhile: nobody wants them. */
  #forgetEarly(): void {
    for (const channel of this.#early.keys()) {
      this.#machine()
        .vsockClose(channel, true)
        .catch(() => {})
    }
    this.#early.clear()
  }

  #answered(event: VsockEvent): void {
    const answer = this.#connecting.get(event.channel)
    this.#connecting.delete(event.channel)
    if (event.event === 'open') {
      answer?.resolve(this.#open(event.channel))
      return
    }
    answer?.reject(over(this.name, 'the guest refused the connection', 'ECONNREFUSED'))
    this.#machine()
      .vsockClose(event.channel, true)
      .catch(() => {})
  }

  #open(channel: Channel): MachineSocket {
    const socket = new MachineSocket(channel, this.#machine)
    this.#sockets.set(channel, socket)
    socket.once('close', () => this.#sockets.delete(channel))
    return socket
  }

  #fail(error: KvitestError): void {
    for (const socket of this.#sockets.values()) {
      // Nobody may be looking any more.
      if (socket.listenerCount('error') === 0) socket.once('error', () => {})
      socket.destroy(error)
    }
    this.#sockets.clear()
    for (const answer of this.#connecting.values()) answer.reject(error)
    this.#connecting.clear()
    this.#early.clear()
  }
}
