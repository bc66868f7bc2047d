import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { KvitestError } from '../native/error.ts'
import { type Capacity, type Limits, limitsOf } from './capacity.ts'
import type { Holder } from './holder.ts'
import { MeetingPlace } from './meeting-place.ts'
import {
  type ClientMessage,
  type LeaseRecord,
  protocolVersion,
  type RunEvent,
  readMessages,
  type ServerMessage,
  send,
} from './messages.ts'

/** The right to run one guest. */
export interface Lease {
  /** Milliseconds until it was granted. */
  readonly waited: number
  /** The guest has started: the next one may. */
  started(): void
  /** Gives it back; `outcome` of the guest is for those who watch the run. Idempotent. */
  end(outcome?: string): void
}

export interface LeaseOptions {
  /** Name of the guest. */
  guest: string
  cpus: number
  /** Bytes. */
  memory: number
  holder: Pick<Holder, 'id' | 'within'>
  /** Called when it has waited for a while, and now and then after that, with one line that says for what. */
  onWaiting?: (text: string) => void
  signal?: AbortSignal | undefined
}

interface Held {
  record: LeaseRecord
  state: 'waiting' | 'starting' | 'running'
  granted: PromiseWithResolvers<void>
  onWaiting: (text: string) => void
}

export interface BudgetClientOptions {
  place?: MeetingPlace
  /** Which run this process belongs to, for people; also who watches what. */
  run?: string
  limits?: Limits
  /** Milliseconds to leave the keeping of the budget to other processes first. */
  modesty?: number
}

const retryInterval = 25
/** After that long without anybody who keeps the budget there is something wrong. */
const connectLimit = 20_000
const firstNotice = 5000
const nextNotice = 60_000

/** This process's end of the budget: leases that outlive whoever keeps the budget. */
export class BudgetClient {
  readonly #place: MeetingPlace
  readonly #run: string
  readonly #limits: Limits
  readonly #modesty: number
  readonly #leases = new Map<number, Held>()
  /** Holders that wait for something else, and how often. */
  readonly #blocked = new Map<string, number>()
  #measured: Capacity | undefined
  #socket: Socket | undefined
  #connecting: Promise<void> | undefined
  #watcher: ((event: RunEvent) => void) | undefined
  #nextId = 1
  #isClosed = false

  constructor(options: BudgetClientOptions = {}) {
    this.#place = options.place ?? new MeetingPlace()
    this.#run = options.run ?? String(process.pid)
    this.#limits = options.limits ?? limitsOf()
    this.#modesty = options.modesty ?? 0
  }

  /** Waits for its turn. Rejects with a KvitestError when the machine can never run such a guest. */
  async lease({ holder, onWaiting = () => {}, signal, ...want }: LeaseOptions): Promise<Lease> {
    const asked = performance.now()
    const id = this.#nextId++
    const { within } = holder
    const held: Held = {
      record: { id, holder: holder.id, ...(within === undefined ? {} : { within }), ...want },
      state: 'waiting',
      granted: Promise.withResolvers<void>(),
      onWaiting,
    }
    this.#leases.set(id, held)
    const onAbort = () => held.granted.reject(noLongerWanted(want.guest))
    if (signal?.aborted) onAbort()
    signal?.addEventListener('abort', onAbort)
    try {
      // Who connects now tells it with everything else that it waits for.
      if (this.#socket) this.#send({ type: 'ask', ...held.record })
      await Promise.race([this.#connected(), held.granted.promise])
      this.#keepAlive()
      await this.#withNotices(held)
    } catch (error) {
      this.#leases.delete(id)
      this.#send({ type: 'leave', id })
      throw error
    } finally {
      signal?.removeEventListener('abort', onAbort)
      this.#keepAlive()
    }
    return {
      waited: performance.now() - asked,
      started: () => {
        if (held.state !== 'starting') return
        held.state = 'running'
        this.#send({ type: 'started', id })
      },
      end: (outcome) => {
        if (this.#leases.delete(id)) this.#send({ type: 'leave', id, ...(outcome ? { outcome } : {}) })
      },
    }
  }

  /** The holder waits for something that is not the budget's, until the returned function is called. */
  blocked({ id, within }: Pick<Holder, 'id' | 'within'>): () => void {
    const names = within === undefined ? [id] : [id, within]
    for (const name of names) this.#block(name, 1)
    let isOver = false
    return () => {
      if (!isOver) for (const name of names) this.#block(name, -1)
      isOver = true
    }
  }

  /** Follows the guests of this run, of all its processes. */
  async watch(listener: (event: RunEvent) => void): Promise<void> {
    this.#watcher = listener
    if (this.#socket) this.#send({ type: 'watch' })
    else await this.#connected()
  }

  /** For those who watch the run. */
  tell(event: RunEvent): void {
    this.#send({ type: 'tell', event })
  }

  /** Gives everything back. */
  async close(): Promise<void> {
    this.#isClosed = true
    await this.#connecting?.catch(() => {})
    this.#socket?.destroy()
    await this.#place.close()
  }

  async #withNotices(held: Held): Promise<void> {
    const ask = () => this.#send({ type: 'why', id: held.record.id })
    let timer = setTimeout(() => {
      ask()
      timer = setInterval(ask, nextNotice)
      timer.unref()
    }, firstNotice)
    timer.unref()
    try {
      await held.granted.promise
    } finally {
      clearTimeout(timer)
    }
  }

  #block(holder: string, by: 1 | -1): void {
    const count = (this.#blocked.get(holder) ?? 0) + by
    if (count > 0) this.#blocked.set(holder, count)
    else this.#blocked.delete(holder)
    if (count === (by > 0 ? 1 : 0)) this.#send({ type: 'blocked', holder, isBlocked: by > 0 })
  }

  #send(message: ClientMessage): void {
    if (this.#socket) send(this.#socket, message)
  }

  /** Only who waits for a lease keeps its process alive. */
  #keepAlive(): void {
    const isWaiting = [...this.#leases.values()].some(({ state }) => state === 'waiting')
    // Who watches does so until it says that it is over.
    if (isWaiting || this.#watcher) this.#socket?.ref()
    else this.#socket?.unref()
  }

  #connected(): Promise<void> {
    if (this.#socket) return Promise.resolve()
    this.#connecting ??= this.#connect().finally(() => {
      this.#connecting = undefined
    })
    return this.#connecting
  }

  async #connect(): Promise<void> {
    this.#place.enter()
    const began = performance.now()
    for (;;) {
      const socket = await openSocket(this.#place.socket)
      if (socket && (await this.#greet(socket))) return
      const patience = performance.now() - began
      if (!socket && patience >= this.#modesty && (await this.#place.serve())) continue
      if (patience > connectLimit || this.#isClosed) {
        throw new KvitestError(
          'share the machine',
          `${this.#place.socket}: ${socket ? 'another version of kvitest keeps the budget' : 'nobody keeps the budget'}`,
          { code: 'EPROTO', hint: 'end the other kvitest processes of this user' },
        )
      }
      await sleep(retryInterval)
    }
  }

  /** Tells a server all that it must know. False: it is none of ours, or went away at once. */
  async #greet(socket: Socket): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<boolean>()
    readMessages<ServerMessage>(socket, (message) => {
      if (message.type === 'welcome') {
        this.#measured = message.measured
        resolve(true)
      } else this.#receive(message)
    })
    const holds = [...this.#leases.values()].flatMap(({ record, state }) =>
      state === 'waiting' ? [] : [{ ...record, isStarting: state === 'starting' }],
    )
    send(socket, {
      type: 'hello',
      version: protocolVersion,
      pid: process.pid,
      run: this.#run,
      limits: this.#limits,
      ...(holds.length > 0 && this.#measured ? { measured: this.#measured } : {}),
      holds,
      blocked: [...this.#blocked.keys()],
    })
    // From here on everything that happens is told as it happens.
    this.#socket = socket
    if (this.#watcher) this.#send({ type: 'watch' })
    for (const { record, state } of this.#leases.values()) {
      if (state === 'waiting') this.#send({ type: 'ask', ...record })
    }
    socket.on('close', () => {
      if (this.#socket === socket) this.#socket = undefined
      resolve(false)
      const isNeeded = this.#leases.size > 0 || this.#watcher !== undefined
      if (isNeeded && !this.#isClosed) this.#connected().catch((error: Error) => this.#fail(error))
    })
    const silent = setTimeout(() => {
      process.stderr.write(
        `kvitest: who keeps the budget at ${this.#place.socket} does not answer: stopped by Ctrl-Z?\n`,
      )
    }, firstNotice)
    silent.unref()
    const isOurs = await promise
    clearTimeout(silent)
    // One that takes the place of another keeps no process alive that the other one did not.
    this.#keepAlive()
    return isOurs
  }

  #fail(error: Error): void {
    for (const { granted } of this.#leases.values()) granted.reject(error)
  }

  #receive(message: Exclude<ServerMessage, { type: 'welcome' }>): void {
    if (message.type === 'event') {
      this.#watcher?.(message.event)
      return
    }
    if (message.type === 'leases') return
    const held = this.#leases.get(message.id)
    if (!held) return
    if (message.type === 'because') {
      if (held.state === 'waiting') held.onWaiting(message.text)
    } else if (message.type === 'granted') {
      held.state = 'starting'
      held.granted.resolve()
    } else {
      const { operation, detail, hint } = message
      held.granted.reject(new KvitestError(operation, detail, { code: 'ENOMEM', hint, infra: false }))
    }
  }
}

function noLongerWanted(guest: string): KvitestError {
  return new KvitestError(`start ${guest}`, 'its test ended while it waited for its turn', {
    code: 'ECANCELED',
    infra: false,
  })
}

async function openSocket(path: string): Promise<Socket | undefined> {
  const socket = connect(path)
  const { promise, resolve } = Promise.withResolvers<Socket | undefined>()
  socket.once('connect', () => resolve(socket))
  socket.on('error', () => resolve(undefined))
  return promise
}
