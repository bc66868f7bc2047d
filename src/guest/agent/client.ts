import { randomBytes } from 'node:crypto'
import { getSystemErrorName } from 'node:util'
import { KvitestError } from '../../native/error.ts'
import type { SpawnOptions } from '../types.ts'
import {
  encodeFrame,
  type Frame,
  FrameDecoder,
  PayloadReader,
  text,
  textList,
  u16,
  u32,
  u64,
} from './frames.ts'
import { AgentProcess, type OutputListeners } from './process.ts'
import { execFlags, framePayloadMax, power, protocolVersion, toAgent, toHost } from './protocol.ts'

export interface AgentHello {
  kernelRelease: string
  /** What went wrong in the agent's set-up, one line each. */
  warnings: string[]
}

/** The conversation at the moment of a checkpoint, as plain data. */
export interface AgentSnapshot {
  hello: AgentHello
  /** The beginning of a frame whose end was not said yet. */
  partial: Uint8Array
  nextId: number
  /** Ids of processes that ran, and of requests that waited for an answer. */
  inherited: number[]
}

export interface AgentListeners {
  /** Called once, when the agent breaks the protocol. */
  onFailure?: (error: KvitestError) => void
  /** Every frame, in both directions. */
  onFrame?: (direction: 'to' | 'from', frame: Frame) => void
}

/** What a guest that goes on from a checkpoint is told. */
export interface ForkedMessage {
  /** 64 bytes. */
  entropy: Uint8Array
  /** 16 bytes. */
  bootId: Uint8Array
  /** Nanoseconds of CLOCK_REALTIME; absent leaves the clock alone. */
  clock?: bigint
}

/** A message with fresh entropy and a fresh id; `toNow` sets the wall clock to this machine's. */
export function forkedMessage(toNow: boolean): ForkedMessage {
  const clock = toNow ? { clock: BigInt(Date.now()) * 1_000_000n } : {}
  return { entropy: randomBytes(64), bootId: randomBytes(16), ...clock }
}

export interface AgentSpawnOptions extends SpawnOptions {
  /** stderr arrives as stdout. */
  merge?: boolean
}

interface Request {
  /** What the caller asked for, to begin an error with: `exec nproc`. */
  about: string
  resolve: (payload: Buffer) => void
  reject: (error: Error) => void
  /** Called in the frame's own turn, before the next frame is looked at. */
  onAnswer?: (payload: Buffer) => void
}

/** FILE frames on their way at once: enough to hide a round trip, too few to fill anything. */
const fileWindow = 8

/** The host's end of the conversation with a guest's agent, over any ordered byte stream. */
export class AgentClient {
  /** The agent's greeting; rejects when the conversation fails first. */
  readonly ready: Promise<AgentHello>
  readonly #write: (data: Uint8Array) => Promise<void>
  readonly #decoder = new FrameDecoder()
  readonly #hello = Promise.withResolvers<AgentHello>()
  readonly #requests = new Map<number, Request>()
  readonly #processes = new Map<number, AgentProcess>()
  readonly #listeners: AgentListeners
  /** Ids of another client: what is said about them here has no listener. */
  readonly #inherited = new Set<number>()
  #greeting: AgentHello | undefined
  #nextId = 1
  #failure: KvitestError | undefined

  /**
   * `write` resolves when the bytes are on their way, and keeps their order. A transport that ends says so through
   * fail().
   */
  constructor(write: (data: Uint8Array) => Promise<void>, listeners: AgentListeners = {}) {
    this.#write = write
    this.#listeners = listeners
    this.ready = this.#hello.promise
    this.ready.catch(() => {})
  }

  /**
   * The client of a guest that goes on from the moment of `snapshot`. A process that ran then goes on in the fork,
   * and a request that was sent is still obeyed there; what the agent says about them is dropped.
   */
  static resume(snapshot: AgentSnapshot, ...rest: ConstructorParameters<typeof AgentClient>): AgentClient {
    const client = new AgentClient(...rest)
    client.#greeting = snapshot.hello
    client.#nextId = snapshot.nextId
    for (const id of snapshot.inherited) client.#inherited.add(id)
    client.#hello.resolve(snapshot.hello)
    client.receive(snapshot.partial)
    return client
  }

  /** For a checkpoint, at exactly its place in the stream of bytes. Throws before the agent has greeted. */
  snapshot(): AgentSnapshot {
    if (!this.#greeting) {
      throw new KvitestError('make a checkpoint', 'the agent has not greeted yet', { code: 'EAGAIN' })
    }
    return {
      hello: this.#greeting,
      partial: new Uint8Array(this.#decoder.partial()),
      nextId: this.#nextId,
      inherited: [...this.#inherited, ...this.#processes.keys(), ...this.#requests.keys()],
    }
  }

  /** Bytes from the guest. Never throws: a broken stream fails everything that waits. */
  receive(chunk: Uint8Array): void {
    if (this.#failure) return
    try {
      for (const frame of this.#decoder.push(chunk)) this.#take(frame)
    } catch (error) {
      const failure =
        error instanceof KvitestError
          ? error
          : new KvitestError('agent protocol', `a frame that makes no sense (${error})`, { code: 'EPROTO' })
      this.fail(failure)
      this.#listeners.onFailure?.(failure)
    }
  }

  /** The conversation is over: every call that waits rejects with `error`, and every later one does. */
  fail(error: KvitestError): void {
    if (this.#failure) return
    this.#failure = error
    this.#hello.reject(error)
    for (const request of this.#requests.values()) request.reject(error)
    this.#requests.clear()
    for (const process of this.#processes.values()) process.fail(error)
    this.#processes.clear()
  }

  /** Rejects with the guest's errno as `code`: ENOENT for a command that is not there. */
  async spawn(argv: string[], options: AgentSpawnOptions = {}): Promise<AgentProcess> {
    const id = this.#nextId++
    const { pty } = options
    const flags =
      (pty ? execFlags.PTY : 0) |
      (options.stdin ? execFlags.STDIN : 0) |
      (options.merge ? execFlags.MERGE : 0)
    const variables = Object.entries(options.env ?? {}).map(([name, value]) => `${name}=${value}`)
    const listeners: OutputListeners = { onStdout: options.onStdout, onStderr: options.onStderr }
    const frame = encodeFrame(
      toAgent.EXEC,
      id,
      u32(flags),
      u32(options.timeout ? Math.max(1, Math.round(options.timeout)) : 0),
      u16(pty?.rows ?? 0),
      u16(pty?.columns ?? 0),
      text(options.cwd ?? ''),
      textList(argv),
      textList(variables),
    )
    let process: AgentProcess | undefined
    await this.#request(id, `exec ${argv[0] ?? ''}`, frame, (payload) => {
      // In this turn: its first output may lie in the same chunk.
      const pid = new PayloadReader(payload).u32()
      process = new AgentProcess(id, pid, (data) => this.#send(data), listeners)
      this.#processes.set(id, process)
    })
    return process!
  }

  /** Writes a regular file, making its parents. */
  async writeFile(path: string, data: Uint8Array | string, mode = 0o644): Promise<void> {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data
    const name = text(path)
    const room = framePayloadMax - 12 - name.length
    const answers: Promise<void>[] = []
    for (let at = 0; at === 0 || at < bytes.byteLength; at += room) {
      if (answers.length >= fileWindow) await answers.shift()
      const id = this.#nextId++
      const part = bytes.subarray(at, at + room)
      const frame = encodeFrame(toAgent.FILE, id, u32(mode), u64(at), name, part)
      const answer = this.#request(id, `write ${path}`, frame)
      answer.catch(() => {})
      answers.push(answer)
    }
    await Promise.all(answers)
  }

  /** Resolves when the agent answered. */
  async ping(): Promise<void> {
    const id = this.#nextId++
    await this.#request(id, 'ping', encodeFrame(toAgent.PING, id))
  }

  /** Tells a guest that it is a fork. Rejects with the guest's errno as `code`. */
  async forked(message: ForkedMessage): Promise<void> {
    const { entropy, bootId, clock = 0n } = message
    const id = this.#nextId++
    await this.#request(id, 'fork', encodeFrame(toAgent.FORKED, id, entropy, bootId, u64(clock)))
  }

  /** Resolves when the request is on its way; the machine's end says that it was obeyed. */
  async powerOff(how: keyof typeof power = 'OFF'): Promise<void> {
    await this.#send(encodeFrame(toAgent.POWEROFF, 0, u32(power[how])))
  }

  async #send(frame: Buffer): Promise<void> {
    if (this.#failure) throw this.#failure
    this.#tell(frame)
    await this.#write(frame)
  }

  #tell(sent: Buffer): void {
    if (!this.#listeners.onFrame) return
    for (const frame of new FrameDecoder().push(sent)) this.#listeners.onFrame('to', frame)
  }

  async #request(
    id: number,
    about: string,
    frame: Buffer,
    onAnswer?: (payload: Buffer) => void,
  ): Promise<void> {
    if (this.#failure) throw this.#failure
    const { promise, resolve, reject } = Promise.withResolvers<Buffer>()
    promise.catch(() => {})
    this.#requests.set(id, { about, resolve, reject, ...(onAnswer ? { onAnswer } : {}) })
    this.#tell(frame)
    try {
      await this.#write(frame)
    } catch (error) {
      this.#requests.delete(id)
      throw this.#failure ?? error
    }
    await promise
  }

  #take(frame: Frame): void {
    const { type, id, payload } = frame
    this.#listeners.onFrame?.('from', frame)
    if (!this.#greeting && type !== toHost.HELLO) {
      throw new KvitestError('agent protocol', `frame ${type} before the greeting`, { code: 'EPROTO' })
    }
    if (id !== 0 && this.#inherited.has(id)) {
      this.#drop(type, id)
      return
    }
    switch (type) {
      case toHost.HELLO:
        this.#greet(payload)
        break
      case toHost.STARTED:
      case toHost.PONG:
      case toHost.DONE:
        this.#answer(id, payload)
        break
      case toHost.ERROR:
        this.#refuse(id, payload)
        break
      case toHost.STDOUT:
        this.#process(id).takeOutput(payload, 'onStdout')
        break
      case toHost.STDERR:
        this.#process(id).takeOutput(payload, 'onStderr')
        break
      case toHost.STDIN_CREDIT:
        this.#process(id).takeCredit(new PayloadReader(payload).u32())
        break
      case toHost.EXIT:
        this.#process(id).takeExit(payload)
        this.#processes.delete(id)
        break
      default:
        throw new KvitestError('agent protocol', `unknown frame ${type}`, { code: 'EPROTO' })
    }
  }

  /** A frame about what another client began: known to be no mistake, and of no use here. */
  #drop(type: number, id: number): void {
    const known: readonly number[] = Object.values(toHost)
    if (!known.includes(type)) {
      throw new KvitestError('agent protocol', `unknown frame ${type}`, { code: 'EPROTO' })
    }
    const last: readonly number[] = [toHost.EXIT, toHost.ERROR, toHost.PONG, toHost.DONE]
    if (last.includes(type)) this.#inherited.delete(id)
  }

  #greet(payload: Buffer): void {
    if (this.#greeting) {
      throw new KvitestError('agent protocol', 'the agent greeted twice: it started anew', {
        code: 'EPROTO',
        hint: 'see the console for why it gave up the first conversation',
      })
    }
    const reader = new PayloadReader(payload)
    const version = reader.u32()
    if (version !== protocolVersion) {
      throw new KvitestError(
        'agent protocol',
        `the agent speaks version ${version}, not ${protocolVersion}`,
        {
          code: 'EPROTO',
          hint: 'build the agent and the initramfs again: npm run setup',
        },
      )
    }
    const hello = { kernelRelease: reader.text(), warnings: reader.textList() }
    this.#greeting = hello
    this.#send(encodeFrame(toAgent.HELLO, 0, u32(protocolVersion))).then(
      () => this.#hello.resolve(hello),
      (error) => this.#hello.reject(error),
    )
  }

  #answer(id: number, payload: Buffer): void {
    const request = this.#settled(id)
    request.onAnswer?.(payload)
    request.resolve(payload)
  }

  #refuse(id: number, payload: Buffer): void {
    const reader = new PayloadReader(payload)
    const code = getSystemErrorName(-reader.u32())
    const operation = reader.text()
    const request = this.#settled(id)
    request.reject(
      new KvitestError(request.about, `${operation} in the guest: ${code}`, { code, infra: false }),
    )
  }

  #settled(id: number): Request {
    const request = this.#requests.get(id)
    if (!request)
      throw new KvitestError('agent protocol', `an answer to no request (${id})`, { code: 'EPROTO' })
    this.#requests.delete(id)
    return request
  }

  #process(id: number): AgentProcess {
    const process = this.#processes.get(id)
    if (!process) throw new KvitestError('agent protocol', `output of no process (${id})`, { code: 'EPROTO' })
    return process
  }
}
