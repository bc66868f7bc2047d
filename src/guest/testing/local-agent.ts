import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { KvitestError } from '../../native/error.ts'
import { AgentClient } from '../agent/client.ts'

const program = fileURLToPath(new URL('../../../build/Release/agent', import.meta.url))

/** One conversation with an agent that runs as a program on this machine, for tests of the real binary. */
export interface LocalConversation {
  socket: Socket
  client: AgentClient
  /** Resolves when the agent closed its end. */
  closed: Promise<void>
}

export class LocalAgent implements AsyncDisposable {
  readonly child: ChildProcess
  readonly exited: Promise<unknown>
  readonly #waiting: ((socket: Socket) => void)[] = []
  readonly #sockets: Socket[] = []
  readonly #dispose: () => void

  private constructor(directory: string) {
    const path = join(directory, 'agent')
    const server = createServer((socket) => {
      socket.on('error', () => {})
      const waiter = this.#waiting.shift()
      if (waiter) waiter(socket)
      else this.#sockets.push(socket)
    })
    server.listen(path)
    this.child = spawn(program, ['--port', path], { stdio: ['ignore', 'inherit', 'pipe'] })
    this.exited = once(this.child, 'exit')
    this.#dispose = () => {
      server.close()
      rmSync(directory, { recursive: true })
    }
  }

  static start(): LocalAgent {
    accessSync(program, constants.X_OK)
    return new LocalAgent(mkdtempSync(join(tmpdir(), 'kvitest-agent-')))
  }

  /** The next connection the agent makes, as raw bytes, paused. */
  async socket(): Promise<Socket> {
    return this.#sockets.shift() ?? (await new Promise((resolve) => this.#waiting.push(resolve)))
  }

  async conversation(): Promise<LocalConversation> {
    const socket = await this.socket()
    const client = new AgentClient(
      (data) =>
        new Promise((resolve, reject) => socket.write(data, (error) => (error ? reject(error) : resolve()))),
    )
    socket.on('data', (data) => client.receive(data as Buffer))
    const closed = once(socket, 'close').then(() =>
      client.fail(new KvitestError('agent', 'the connection was closed', { code: 'EPIPE' })),
    )
    await client.ready
    return { socket, client, closed }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill('SIGTERM')
    await this.exited
    this.#dispose()
  }
}

export interface Collected {
  status: number | null
  signal: string | null
  timedOut: boolean
  duration: number
  stdout: string
  stderr: string
}

/** Runs a command to its end and keeps what it says. */
export async function collect(
  client: AgentClient,
  argv: string[],
  options: Parameters<AgentClient['spawn']>[1] = {},
): Promise<Collected> {
  const stdout: Uint8Array[] = []
  const stderr: Uint8Array[] = []
  const process = await client.spawn(argv, {
    ...options,
    onStdout: (data) => stdout.push(data),
    onStderr: (data) => stderr.push(data),
  })
  const exit = await process.exited
  return { ...exit, stdout: Buffer.concat(stdout).toString(), stderr: Buffer.concat(stderr).toString() }
}
