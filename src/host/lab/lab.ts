import type { ChildProcess } from 'node:child_process'
import { randomBytes, randomUUID } from 'node:crypto'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { KvitestError } from '../../native/error.ts'
import { ConsoleTail } from './console-tail.ts'
import { crashSignal } from './crash-signal.ts'
import { encodeFrame, FrameReader } from './frame.ts'
import { type PageSet, saveMemory } from './lab-memory.ts'
import { type LabAccelerator, spawnQemu } from './qemu.ts'
import { Qmp } from './qmp.ts'
import {
  type LabDescription,
  type LabStatus,
  type OwnerFunctions,
  openRpc,
  protocolVersion,
  type RpcEnd,
  type ServerFunctions,
} from './rpc.ts'
import type { OpenSavedLab } from './saved-lab.ts'

export interface LabOptions {
  /** `lab:debian:6.12-cloud`, for messages. */
  name: string
  /** Paths of the vmlinux and of what buildLabImage made. */
  vmlinux: string
  initramfs: string
  accelerator: LabAccelerator
  cpus: number
  /** Bytes, whole MiB. */
  memory: number
  tscKhz: number
  /** Goes on from it instead of booting. */
  saved?: OpenSavedLab
  /** Milliseconds from start to the server's greeting, or to its answer when it is restored. */
  bootTimeout?: number
}

/** Who a lab's session answers to. */
export interface SessionReceiver {
  message(payload: Buffer): void
  lost(error: KvitestError): void
}

export interface LabSession {
  /** False when the link is full: wait for onDrain before sending more. */
  post(payload: Uint8Array): boolean
  end(): void
}

/** How long the server may be silent when asked for a sign of life; a busy TCG core needs a while. */
const silenceLimit = 120_000
const pingInterval = 10_000

const bootLimit = 120_000
/** A restored lab answers within half a second; a busy machine needs longer. */
const restoreLimit = 30_000
/** How long the sessions' machines may take to be gone before a lab counts as not idle. */
const idleLimit = 3000

/** One running lab: a QEMU process, the link to the server in it, and the end of its console. */
export class Lab {
  readonly name: string
  readonly accelerator: LabAccelerator
  /** Settles with the reason when the lab has ended, asked for or not. */
  readonly ended: Promise<KvitestError>
  readonly console = new ConsoleTail()
  /** Keys of the checkpoints that it had from the start; none for one that was booted. */
  readonly restoredCheckpoints: readonly string[]
  /** From the server's greeting. */
  description!: LabDescription
  onDrain: () => void = () => {}

  readonly #child: ChildProcess
  readonly #link: Socket
  readonly #qmp: Qmp
  readonly #server: RpcEnd<ServerFunctions, OwnerFunctions>
  readonly #memory: number
  /** Pages that the saved lab it came from has in its file. */
  readonly #inFile: PageSet | undefined
  readonly #sessions = new Map<number, SessionReceiver>()
  readonly #exited = Promise.withResolvers<void>()
  readonly #end = Promise.withResolvers<KvitestError>()
  readonly #greeted = Promise.withResolvers<LabDescription>()
  #error: KvitestError | undefined
  #nextClient = 1
  #lastHeard = performance.now()
  #pinger: NodeJS.Timeout | undefined

  private constructor(options: LabOptions) {
    this.name = options.name
    this.accelerator = options.accelerator
    this.ended = this.#end.promise
    this.#memory = options.memory
    this.#inFile = options.saved?.pages
    this.restoredCheckpoints = (options.saved?.manifest.contents ?? []).flatMap((name) =>
      name.startsWith('checkpoint:') ? [name.slice('checkpoint:'.length)] : [],
    )
    const { child, link, control, console } = spawnQemu({
      kernel: options.vmlinux,
      initramfs: options.initramfs,
      accelerator: options.accelerator,
      cpus: options.cpus,
      memory: options.memory,
      tscKhz: options.tscKhz,
      ...(options.saved ? { saved: { ram: options.saved.ram.fd, state: options.saved.state.fd } } : {}),
    })
    this.#child = child
    this.#link = link
    this.#qmp = new Qmp(control)
    this.#server = openRpc<ServerFunctions, OwnerFunctions>(
      { greeting: (version, description) => this.#greet(version, description) },
      [],
      (message) => void link.write(encodeFrame(0, message)),
    )
    console.on('data', (chunk: Buffer) => this.console.write(chunk))
    child.stderr?.on('data', (chunk: Buffer) => this.console.write(chunk))
    child.on('error', (error: NodeJS.ErrnoException) => {
      this.#exited.resolve()
      this.#die(
        new KvitestError('start a lab', `setpriv: ${error.message}`, {
          code: error.code,
          hint: 'install the package util-linux',
          cause: error,
        }),
      )
    })
    // 'close' comes after 'exit' and after the last byte of the console.
    child.on('exit', () => this.#exited.resolve())
    child.on('close', (status, signal) => this.#die(this.#death(status, signal)))
    const reader = new FrameReader((client, payload) => this.#receive(client, payload))
    link.on('data', (chunk: Buffer) => {
      try {
        reader.write(chunk)
      } catch (error) {
        this.#die(error as KvitestError)
      }
    })
    link.on('drain', () => this.onDrain())
    link.on('error', () => {}) // QEMU's end says more
    // A lab alone keeps no process alive; its users' sessions do.
    const streams = [console, child.stderr] as unknown as Socket[]
    for (const handle of [child, link, control, ...streams]) handle.unref()
  }

  /**
   * Boots or restores a lab; resolves when its server has greeted or answered. Rejects with a KvitestError that
   * carries the console's end.
   */
  static async start(options: LabOptions): Promise<Lab> {
    const lab = new Lab(options)
    const limit = options.bootTimeout ?? (options.saved ? restoreLimit : bootLimit)
    const timer = setTimeout(() => {
      lab.#die(
        new KvitestError(
          'start a lab',
          `${options.name}: no greeting within ${limit / 1000} s; ${lab.console.summary()}`,
          {
            code: 'ETIMEDOUT',
          },
        ),
      )
    }, limit)
    const failure = lab.ended.then((error) => Promise.reject(error))
    failure.catch(() => {})
    try {
      const ready = options.saved ? lab.#wake() : lab.#greeted.promise
      lab.description = await Promise.race([ready, failure])
    } finally {
      clearTimeout(timer)
    }
    lab.#pinger = setInterval(() => lab.#ping(), pingInterval)
    lab.#pinger.unref()
    return lab
  }

  get isAlive(): boolean {
    return this.#error === undefined
  }

  openSession(receiver: SessionReceiver): LabSession {
    const client = this.#nextClient++
    if (this.#error) {
      const error = this.#error
      queueMicrotask(() => receiver.lost(error))
      return { post: () => true, end: () => {} }
    }
    this.#sessions.set(client, receiver)
    return {
      post: (payload) => this.#error !== undefined || this.#link.write(encodeFrame(client, payload)),
      end: () => {
        if (this.#sessions.delete(client) && !this.#error)
          this.#link.write(encodeFrame(client, Buffer.alloc(0)))
      },
    }
  }

  /**
   * What the server says of itself once no session and no machine of one is left; undefined when that does not come
   * about within seconds.
   */
  async idleStatus(): Promise<LabStatus | undefined> {
    this.#child.ref() // as in close(): the last one who uses it waits
    const deadline = performance.now() + idleLimit
    const late = sleep(idleLimit, undefined, { ref: false })
    while (this.isAlive && performance.now() < deadline) {
      const status = await Promise.race([this.#server.rpc.status().catch(() => undefined), late])
      if (status === undefined) return undefined
      const { sessions, counts } = status
      // Checkpoints that are kept by key stay; those of a session go with it.
      if (sessions === 0 && counts.machines === 0 && counts.threads === 0) return status
      await sleep(20)
    }
    return undefined
  }

  /**
   * Stops the lab for good and writes it into `directory`: QEMU's devices to `state`, the memory to `ram`. It must be
   * idle: what is on its way over the link would be lost.
   */
  async save(
    directory: string,
    options: { signal?: AbortSignal; beforeWriting?: (bytes: number) => Promise<void> } = {},
  ): Promise<{ pages: PageSet; data: number }> {
    clearInterval(this.#pinger)
    await this.#qmp.execute('stop')
    // The name is historic: it saves the devices without RAM, of any machine (qapi/migration.json of QEMU).
    await this.#qmp.execute('xen-save-devices-state', { filename: join(directory, 'state'), live: false })
    const answer = await this.#qmp.execute<string>('human-monitor-command', { 'command-line': 'gpa2hva 0' })
    const address = Number(/is (0x[0-9a-f]+)/.exec(answer)?.[1])
    if (!Number.isSafeInteger(address) || this.#child.pid === undefined) {
      throw new KvitestError('save a lab', `QEMU does not say where its RAM is: ${answer.trim()}`, {
        code: 'EINFRA',
      })
    }
    return saveMemory(
      {
        pid: this.#child.pid,
        address,
        bytes: this.#memory,
        ...(this.#inFile ? { inFile: this.#inFile } : {}),
      },
      join(directory, 'ram'),
      options,
    )
  }

  /** Kills QEMU and waits until it is gone. */
  async close(): Promise<void> {
    this.#child.ref() // whoever waits for its end must live to see it
    this.#die(new KvitestError('use a lab', `${this.name}: it was closed`, { code: 'ECANCELED' }))
    await this.#exited.promise
  }

  #receive(client: number, payload: Buffer): void {
    this.#lastHeard = performance.now()
    if (client !== 0) {
      this.#sessions.get(client)?.message(payload)
      return
    }
    if (payload.length > 0) this.#server.receive(payload) // the answer to a ping is empty
  }

  #greet(version: number, description: LabDescription): void {
    if (version === protocolVersion) {
      this.#greeted.resolve(description)
      return
    }
    this.#die(
      new KvitestError('start a lab', `${this.name}: it speaks version ${version}`, { code: 'EPROTO' }),
    )
  }

  /** Before any session goes in: the server lives, and its kernel is no twin of another lab's any more. */
  async #wake(): Promise<LabDescription> {
    const nonce = randomUUID()
    const answer = await this.#server.rpc.hello(nonce)
    if (answer.nonce !== nonce) {
      throw new KvitestError('start a lab', `${this.name}: a wrong nonce`, { code: 'EPROTO' })
    }
    this.#greet(answer.version, answer.description)
    await this.#server.rpc.restored({ entropy: randomBytes(64), now: Date.now() })
    return this.#greeted.promise
  }

  #ping(): void {
    const silence = performance.now() - this.#lastHeard
    if (silence > silenceLimit) {
      const seconds = Math.round(silence / 1000)
      this.#die(
        new KvitestError('use a lab', `${this.name}: silent for ${seconds} s; ${this.console.summary()}`, {
          code: 'ETIMEDOUT',
        }),
      )
      return
    }
    this.#link.write(encodeFrame(0, Buffer.alloc(0)))
  }

  #death(status: number | null, signal: NodeJS.Signals | null): KvitestError {
    const crash = crashSignal(this.console.text())
    if (crash) {
      const detail = `${this.name}: the process of its VMM was ended by ${crash}; ${this.console.summary()}`
      return new KvitestError('use a lab', detail, { code: 'ECRASH' })
    }
    const how = signal ? `QEMU was ended by ${signal}` : `QEMU ended with status ${status}`
    const isMissing = status === 127 || /failed to execute qemu/.test(this.console.text())
    const hint = isMissing ? 'install the package qemu-system-x86, or run npm run setup' : undefined
    return new KvitestError('use a lab', `${this.name} died: ${how}; ${this.console.summary()}`, {
      code: isMissing ? 'ENOENT' : 'EINFRA',
      hint,
    })
  }

  #die(error: KvitestError): void {
    if (this.#error) return
    this.#error = error
    clearInterval(this.#pinger)
    this.#child.kill('SIGKILL')
    this.#link.destroy()
    this.#server.rpc.$close(error)
    this.#end.resolve(error)
    for (const receiver of this.#sessions.values()) receiver.lost(error)
    this.#sessions.clear()
  }
}
