import type { ChildProcess } from 'node:child_process'
import type { Socket } from 'node:net'
import { deserialize } from 'node:v8'
import type { KernelInfo } from '../../image/kernel.ts'
import { extractVmlinux } from '../../image/vmlinux.ts'
import { KvitestError } from '../../native/error.ts'
import { ConsoleTail } from './console-tail.ts'
import { encodeFrame, FrameReader } from './frame.ts'
import { buildLabImage } from './image.ts'
import { type LabAccelerator, spawnQemu } from './qemu.ts'
import { type LabDescription, protocolVersion } from './rpc.ts'

export interface LabOptions {
  /** `lab:debian:6.12-cloud`, for messages. */
  name: string
  kernel: KernelInfo
  accelerator: LabAccelerator
  cpus: number
  /** Bytes. */
  memory: number
  /** Milliseconds from start to the server's greeting. */
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

/** One running lab: a QEMU process, the link to the server in it, and the end of its console. */
export class Lab {
  readonly name: string
  readonly accelerator: LabAccelerator
  /** Settles with the reason when the lab has ended, asked for or not. */
  readonly ended: Promise<KvitestError>
  readonly console = new ConsoleTail()
  /** From the server's greeting. */
  description!: LabDescription
  onDrain: () => void = () => {}

  readonly #child: ChildProcess
  readonly #link: Socket
  readonly #sessions = new Map<number, SessionReceiver>()
  readonly #exited = Promise.withResolvers<void>()
  readonly #end = Promise.withResolvers<KvitestError>()
  readonly #greeted = Promise.withResolvers<LabDescription>()
  #error: KvitestError | undefined
  #nextClient = 1
  #lastHeard = performance.now()
  #pinger: NodeJS.Timeout | undefined

  private constructor(options: LabOptions, vmlinux: string, initramfs: string) {
    this.name = options.name
    this.accelerator = options.accelerator
    this.ended = this.#end.promise
    const { child, link, console } = spawnQemu({
      kernel: vmlinux,
      initramfs,
      accelerator: options.accelerator,
      cpus: options.cpus,
      memory: options.memory,
    })
    this.#child = child
    this.#link = link
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
    for (const handle of [child, link, console as unknown as Socket, child.stderr as unknown as Socket])
      handle.unref()
  }

  /** Boots a lab; resolves when its server has greeted. Rejects with a KvitestError that carries the console's end. */
  static async start(options: LabOptions): Promise<Lab> {
    const lab = new Lab(
      options,
      await extractVmlinux(options.kernel.image),
      await buildLabImage(options.kernel),
    )
    const limit = options.bootTimeout ?? 120_000
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
      lab.description = await Promise.race([lab.#greeted.promise, failure])
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
    if (payload.length === 0) return // the answer to a ping
    const greeting = deserialize(payload) as { version: number; description: LabDescription }
    if (greeting.version !== protocolVersion) {
      this.#die(
        new KvitestError('start a lab', `${this.name}: it speaks version ${greeting.version}`, {
          code: 'EPROTO',
        }),
      )
      return
    }
    this.#greeted.resolve(greeting.description)
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
    this.#end.resolve(error)
    for (const receiver of this.#sessions.values()) receiver.lost(error)
    this.#sessions.clear()
  }
}
