import { createServer, type Server, type Socket } from 'node:net'
import { type Capacity, type Limits, limited } from './capacity.ts'
import { type LeaseRequest, MachineBudget } from './machine-budget.ts'
import {
  type ClientMessage,
  type GuestEvent,
  type GuestState,
  type HeldRecord,
  type LeaseRecord,
  type ListedLease,
  protocolVersion,
  type RunEvent,
  readMessages,
  send,
} from './messages.ts'

/** A process that holds leases or asks for them: one connection, which is the lease. */
class Client {
  readonly socket: Socket
  pid = 0
  run = ''
  limits: Limits = {}
  isWatching = false
  readonly leases = new Map<number, Lease>()
  /** Holders of it that wait for something else. */
  readonly blocked = new Set<string>()

  constructor(socket: Socket) {
    this.socket = socket
  }
}

interface Lease extends LeaseRequest {
  id: number
  client: Client
}

export interface BudgetServerOptions {
  measured: Capacity
  /** A process said who it is, or has gone. */
  onClient?: (pid: number, isThere: boolean) => void
}

/** Keeps the budget of this machine for all processes of one user. What a connection holds goes with it. */
export class BudgetServer {
  readonly #budget: MachineBudget
  readonly #server: Server
  readonly #clients = new Set<Client>()
  readonly #onClient: NonNullable<BudgetServerOptions['onClient']>
  #measured: Capacity

  constructor({ measured, onClient = () => {} }: BudgetServerOptions) {
    this.#measured = measured
    this.#onClient = onClient
    this.#budget = new MachineBudget(measured, (request, beyond) => {
      this.#granted(request as Lease, beyond === 'stall')
    })
    this.#server = createServer((socket) => this.#connected(socket))
    // It serves as long as its process lives for reasons of its own.
    this.#server.unref()
  }

  async listen(path: string): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#server.once('error', reject)
    this.#server.listen(path, resolve)
    await promise
  }

  /** While it is closed nothing is granted: what was granted before is not all known yet. */
  set isOpen(isOpen: boolean) {
    this.#budget.isOpen = isOpen
  }

  async close(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#server.close(() => resolve())
    for (const { socket } of this.#clients) socket.destroy()
    await promise
  }

  #connected(socket: Socket): void {
    // A client in this very process keeps it alive by its own end.
    socket.unref()
    const client = new Client(socket)
    this.#clients.add(client)
    readMessages<ClientMessage>(socket, (message) => this.#receive(client, message))
    socket.on('error', () => {})
    socket.on('close', () => this.#left(client))
  }

  #receive(client: Client, message: ClientMessage): void {
    if (message.type === 'hello') this.#hello(client, message)
    else if (message.type === 'ask') this.#ask(client, message)
    else if (message.type === 'blocked') this.#block(client, message.holder, message.isBlocked)
    else if (message.type === 'watch') this.#watch(client)
    else if (message.type === 'list') send(client.socket, { type: 'leases', leases: this.#list() })
    else if (message.type === 'tell') this.#tell(client.run, message.event)
    else this.#about(client, message)
  }

  #about(client: Client, message: Extract<ClientMessage, { type: 'started' | 'leave' | 'why' }>): void {
    const lease = client.leases.get(message.id)
    if (!lease) return
    if (message.type === 'started') {
      this.#budget.started(lease)
      this.#state(lease, 'running')
    } else if (message.type === 'leave') {
      client.leases.delete(lease.id)
      // Before the next one starts in its place.
      this.#state(lease, 'ended', message.outcome)
      this.#budget.leave(lease)
    } else {
      send(client.socket, { type: 'because', id: lease.id, text: this.#budget.describe(lease) })
    }
  }

  #hello(client: Client, hello: Extract<ClientMessage, { type: 'hello' }>): void {
    const { version, pid, run, limits, measured } = hello
    if (version !== protocolVersion) {
      client.socket.destroy()
      return
    }
    Object.assign(client, { pid, run, limits })
    // Measured now it would lack what the guests of before have taken.
    if (measured) this.#measured = measured
    this.#limit()
    for (const record of hello.holds) this.#hold(client, record)
    for (const holder of hello.blocked) this.#block(client, holder, true)
    send(client.socket, { type: 'welcome', version: protocolVersion, measured: this.#measured })
    this.#onClient(pid, true)
  }

  #ask(client: Client, record: LeaseRecord): void {
    const lease = this.#lease(client, record)
    const refusal = this.#budget.ask(lease)
    if (refusal) {
      client.leases.delete(lease.id)
      send(client.socket, { type: 'refused', id: lease.id, ...refusal })
      return
    }
    if (this.#budget.waiting.includes(lease)) this.#state(lease, 'waiting')
  }

  #hold(client: Client, record: HeldRecord): void {
    const lease = this.#lease(client, record)
    this.#budget.adopt(lease, record.isStarting)
    this.#state(lease, record.isStarting ? 'starting' : 'running')
  }

  #lease(client: Client, { id, holder, within, guest, cpus, memory }: LeaseRecord): Lease {
    const own = (name: string) => `${client.pid} ${name}`
    const outer = within === undefined ? {} : { within: own(within) }
    const lease = { id, client, run: client.run, holder: own(holder), ...outer, guest, cpus, memory }
    client.leases.set(id, lease)
    return lease
  }

  #granted(lease: Lease, isStalled: boolean): void {
    send(lease.client.socket, { type: 'granted', id: lease.id })
    const why = isStalled ? 'beyond the budget: nothing moved any more' : undefined
    this.#tell(lease.run, { ...this.#eventOf(lease, 'starting', why), ...(isStalled ? { isStalled } : {}) })
  }

  /** What is, and from now on what happens. */
  #watch(client: Client): void {
    client.isWatching = true
    for (const { run, leases } of this.#clients) {
      if (run !== client.run) continue
      for (const lease of leases.values()) {
        send(client.socket, { type: 'event', event: this.#eventOf(lease, this.#budget.stateOf(lease)) })
      }
    }
  }

  #list(): ListedLease[] {
    return [...this.#clients].flatMap(({ pid, leases }) =>
      [...leases.values()].map((lease) => {
        const { guest, cpus, memory } = lease
        return { pid, guest, cpus, memory, state: this.#budget.stateOf(lease) }
      }),
    )
  }

  #block(client: Client, holder: string, isBlocked: boolean): void {
    const name = `${client.pid} ${holder}`
    if (client.blocked.has(name) === isBlocked) return
    if (isBlocked) client.blocked.add(name)
    else client.blocked.delete(name)
    this.#budget.setBlocked(name, isBlocked)
  }

  #left(client: Client): void {
    this.#clients.delete(client)
    for (const holder of client.blocked) this.#budget.setBlocked(holder, false)
    for (const lease of client.leases.values()) {
      this.#state(lease, 'ended', 'its process has gone')
      this.#budget.leave(lease)
    }
    this.#limit()
    this.#onClient(client.pid, false)
  }

  #limit(): void {
    const limits = [...this.#clients].map((client) => client.limits)
    this.#budget.capacity = limited(this.#measured, limits)
  }

  #state(lease: Lease, state: GuestState, detail?: string): void {
    this.#tell(lease.run, this.#eventOf(lease, state, detail))
  }

  #eventOf(lease: Lease, state: GuestState, detail?: string): GuestEvent {
    const why = detail ?? (state === 'waiting' ? this.#budget.describe(lease) : undefined)
    const key = `${lease.client.pid}:${lease.id}`
    return { type: 'guest', key, guest: lease.guest, state, ...(why === undefined ? {} : { detail: why }) }
  }

  #tell(run: string, event: RunEvent): void {
    for (const { socket, isWatching, run: theirs } of this.#clients) {
      if (isWatching && theirs === run) send(socket, { type: 'event', event })
    }
  }
}
