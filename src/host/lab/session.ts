import { open } from 'node:fs/promises'
import type { Channel, MachineEvent, MachineSpec, NativeAddon, NativeMachine } from '../../native/contract.ts'
import { KvitestError } from '../../native/error.ts'
import type { BlobStore } from './blob-store.ts'
import { type ClientFunctions, type LabDescription, type LabFunctions, openRpc } from './rpc.ts'

/** Not by node:crypto, whose generator a restored lab shares with its twins. */
async function readKernelRandom(size: number): Promise<Uint8Array> {
  const file = await open('/dev/urandom')
  try {
    return (await file.read(Buffer.alloc(size), 0, size)).buffer
  } finally {
    await file.close()
  }
}

export interface SessionParts {
  addon: NativeAddon
  blobs: BlobStore
  description: LabDescription
  post: (message: Buffer) => void
}

/** One client's session in the lab: at most one machine, stopped when the session ends. */
export class Session {
  readonly #parts: SessionParts
  readonly #receive: (message: Buffer) => void
  #creating: Promise<NativeMachine> | undefined
  #ended = false

  constructor(parts: SessionParts) {
    this.#parts = parts
    const { rpc, receive } = openRpc<ClientFunctions, LabFunctions>(this.#functions(), ['event'], parts.post)
    this.#onEvent = (event) => void rpc.event(event)
    this.#receive = receive
  }

  readonly #onEvent: (event: MachineEvent) => void

  receive(message: Buffer): void {
    if (!this.#ended) this.#receive(message)
  }

  /** Stops the machine, whatever state it is in, and lets go of the session's files. */
  async end(): Promise<void> {
    this.#ended = true
    await this.#parts.blobs.release(this)
    const machine = await this.#creating?.catch(() => undefined)
    await machine?.stop().catch(() => {})
  }

  async #machine(): Promise<NativeMachine> {
    if (!this.#creating)
      throw new KvitestError('drive the machine', 'the session has none', { code: 'ENODEV' })
    return this.#creating
  }

  #functions(): LabFunctions {
    const { addon, blobs, description } = this.#parts
    return {
      describe: async () => description,
      counts: async () => addon.counts(),
      kernelState: async () => ({ random: await readKernelRandom(64), now: Date.now() }),
      ping: async (data) => data,
      ensureBlob: (sha256, size) => blobs.ensure(this, sha256, size),
      writeBlob: (sha256, data) => blobs.write(this, sha256, data),
      createMachine: async (spec) => {
        if (this.#creating)
          throw new KvitestError('create the machine', 'the session has one already', { code: 'EBUSY' })
        this.#creating = this.#create(spec)
        await this.#creating
      },
      start: async () => (await this.#machine()).start(),
      stop: async () => (await this.#machine()).stop(),
      write: async (channel, data) => (await this.#machine()).write(channel, data),
      consumed: async (channel: Channel, bytes: number) => (await this.#machine()).consumed(channel, bytes),
      setPortOpen: async (channel, open) => (await this.#machine()).setPortOpen(channel, open),
      resize: async (channel, columns, rows) => (await this.#machine()).resize(channel, columns, rows),
      inspect: async () => (await this.#machine()).inspect(),
      nmi: async () => (await this.#machine()).nmi(),
    }
  }

  async #create(spec: MachineSpec): Promise<NativeMachine> {
    try {
      return await this.#parts.addon.createMachine(this.#withPaths(spec), (event) => {
        if (!this.#ended) this.#onEvent(event)
      })
    } finally {
      // The payload is in the machine's memory now.
      await this.#parts.blobs.release(this)
    }
  }

  #withPaths(spec: MachineSpec): MachineSpec {
    const { payload } = spec
    const path = (sha256: string) => this.#parts.blobs.path(sha256)
    if (payload.kind === 'bare') return { ...spec, payload: { ...payload, elf: path(payload.elf) } }
    return {
      ...spec,
      payload: {
        ...payload,
        kernel: path(payload.kernel),
        ...(payload.initramfs === undefined ? {} : { initramfs: path(payload.initramfs) }),
      },
    }
  }
}
