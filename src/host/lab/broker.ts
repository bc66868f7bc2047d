import { rmSync } from 'node:fs'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { deserialize, serialize } from 'node:v8'
import { Waits } from '../../budget/waiting-line.ts'
import { KvitestError } from '../../native/error.ts'
import { encodeFrame, FrameReader, frameKind } from './frame.ts'
import type { Lab, SessionReceiver } from './lab.ts'
import { kernelsToRetire } from './placement.ts'
import { LabPool, type OpenOptions, type Placement, type PoolOptions } from './pool.ts'
import { type ClientRequest, protocolVersion, type SessionLost, type SessionOpened, toWire } from './rpc.ts'

const prefix = 'kvitest-'

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** A directory that only this user enters, named by our pid; those of killed processes are swept. */
async function runtimeDirectory(): Promise<string> {
  const parent = process.env.XDG_RUNTIME_DIR || tmpdir()
  for (const name of await readdir(parent).catch(() => [])) {
    const pid = /^kvitest-(\d+)-\w+$/.exec(name)?.[1]
    // Another user's cannot be removed, which is right.
    if (pid && !isRunning(Number(pid)))
      await rm(join(parent, name), { recursive: true, force: true }).catch(() => {})
  }
  // mkdtemp makes it 0700.
  return mkdtemp(join(parent, `${prefix}${process.pid}-`))
}

/** One client: a unix socket on one side, a session in a lab on the other. */
class Client {
  readonly #socket: Socket
  readonly #broker: Broker
  #placement: Promise<Placement> | undefined
  #placed: Placement | undefined
  readonly #left = new AbortController()

  constructor(broker: Broker, socket: Socket) {
    this.#broker = broker
    this.#socket = socket
    const reader = new FrameReader((kind, payload) => this.#receive(kind, payload))
    socket.on('data', (chunk: Buffer) => {
      try {
        reader.write(chunk)
      } catch {
        socket.destroy() // a stranger
      }
    })
    socket.on('error', () => {})
    socket.on('close', () => {
      broker.clients.delete(this)
      this.#left.abort()
      this.#placement?.then(
        ({ session }) => {
          session.end()
          broker.retire()
        },
        () => {},
      )
    })
  }

  resume(lab: Lab): void {
    if (this.#placed?.lab === lab) this.#socket.resume()
  }

  destroy(): void {
    this.#socket.destroy()
  }

  #control(message: SessionOpened | SessionLost): void {
    this.#socket.write(encodeFrame(frameKind.control, serialize(message)))
  }

  #receive(kind: number, payload: Buffer): void {
    if (kind === frameKind.control && !this.#placement) {
      this.#open(deserialize(payload) as ClientRequest)
      return
    }
    if (kind !== frameKind.data || !this.#placed) throw new Error('out of turn')
    if (!this.#placed.session.post(payload)) this.#socket.pause()
  }

  #open(request: ClientRequest): void {
    const waiting = {
      signal: this.#left.signal,
      onWaiting: (what: string) => this.#control({ type: 'waiting', what }),
    }
    const receiver: SessionReceiver = {
      message: (payload) => this.#socket.write(encodeFrame(frameKind.data, payload)),
      lost: (error) => {
        this.#control({ type: 'lost', error: toWire(error) })
        this.#socket.end()
      },
    }
    this.#placement = this.#broker.place(request, receiver, waiting)
    this.#placement.then(
      (placement) => {
        this.#placed = placement
        const { lab, labs } = placement
        this.#control({ type: 'opened', lab: lab.name, accelerator: lab.accelerator, labs })
      },
      (error: unknown) => {
        this.#control({ type: 'refused', error: toWire(error) })
        this.#socket.end()
      },
    )
  }
}

/**
 * Owns the labs of a run and lets many processes use them through one unix socket. It passes the sessions' bytes
 * on without reading them: what a slow client has not taken is bounded by its machine's credit, and a full link
 * to a lab pauses the clients that send to it.
 */
export class Broker {
  readonly socket: string
  readonly clients = new Set<Client>()
  readonly #directory: string
  readonly #options: PoolOptions
  readonly #server: Server
  readonly #pools = new Map<string, LabPool>()
  readonly #retiring = new Set<Promise<void>>()
  readonly #waits = new Waits()
  readonly #sweep = () => rmSync(this.#directory, { recursive: true, force: true })

  private constructor(directory: string, options: PoolOptions) {
    this.#directory = directory
    this.#options = options
    this.#waits.onChange = () => {
      for (const pool of this.#pools.values()) pool.advance()
    }
    this.socket = join(directory, 'labs.sock')
    this.#server = createServer((socket) => {
      // A client in this very process keeps it alive by its own end.
      socket.unref()
      this.clients.add(new Client(this, socket))
    })
    this.#server.unref()
    process.once('exit', this.#sweep)
  }

  static async start(options: PoolOptions): Promise<Broker> {
    const broker = new Broker(await runtimeDirectory(), options)
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    broker.#server.once('error', reject)
    broker.#server.listen(broker.socket, resolve)
    await promise
    return broker
  }

  async place(
    request: ClientRequest,
    receiver: SessionReceiver,
    waiting: Omit<OpenOptions, 'holder' | 'within'> = {},
  ): Promise<Placement> {
    if (request.version !== protocolVersion) {
      throw new KvitestError('use a lab', `version ${request.version} of the lab protocol`, {
        code: 'EPROTO',
        hint: 'run one version of kvitest at a time',
      })
    }
    let pool = this.#pools.get(request.kernel)
    if (!pool) {
      pool = new LabPool(request.kernel, this.#options, this.#waits)
      pool.onDrain = (lab) => {
        for (const client of this.clients) client.resume(lab)
      }
      this.#pools.set(request.kernel, pool)
    }
    const { holder, within } = request
    return pool.open(request, receiver, {
      ...waiting,
      ...(holder === undefined ? {} : { holder }),
      ...(within === undefined ? {} : { within }),
    })
  }

  /** Ends the labs of kernels that nobody uses any more, where a run has had more kernels than memory is there for. */
  retire(): void {
    for (const [kernel, pool] of kernelsToRetire(this.#pools)) {
      // Whoever asks for that kernel next gets labs of a new pool.
      this.#pools.delete(kernel)
      const closing = pool.close({ save: true }).finally(() => this.#retiring.delete(closing))
      this.#retiring.add(closing)
    }
  }

  /** Ends every session and every lab, saves the labs when asked to; returns when no process is left. */
  async close(options: { save?: boolean } = {}): Promise<void> {
    process.removeListener('exit', this.#sweep)
    this.#server.close()
    for (const client of this.clients) client.destroy()
    await Promise.all([...this.#retiring, ...[...this.#pools.values()].map((pool) => pool.close(options))])
    await rm(this.#directory, { recursive: true, force: true })
  }
}
