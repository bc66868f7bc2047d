import { open } from 'node:fs/promises'
import type { DirectoryEntry } from '../../image/directory.ts'
import type {
  Channel,
  DeviceSpec,
  MachineEvent,
  MachineSpec,
  NativeAddon,
  NativeCheckpoint,
  NativeMachine,
} from '../../native/contract.ts'
import { KvitestError } from '../../native/error.ts'
import type { NativeRaw } from '../../native/raw-contract.ts'
import type { CheckpointStore } from '../checkpoint-store.ts'
import { readKernelFacts } from '../kernel-facts.ts'
import { makeCalls } from '../raw/place.ts'
import type { BlobStore } from './blob-store.ts'
import type { HeldCheckpoints } from './held-checkpoints.ts'
import { LabDirectory } from './lab-directory.ts'
import { LabRoot } from './lab-root.ts'
import {
  type ClientFunctions,
  chunkSize,
  type LabCheckpointInfo,
  type LabDescription,
  type LabFunctions,
  openRpc,
} from './rpc.ts'

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
  /** The lab's own, by key. */
  kept: CheckpointStore<NativeCheckpoint>
  /** The sessions', by id. */
  held: HeldCheckpoints
  description: LabDescription
  /** A program is about to run: what it does to the lab's kernel nobody knows. */
  onProgram: () => void
  post: (message: Buffer) => void
}

/** One client's session in the lab: at most one machine and one raw session, ended when the session ends. */
export class Session {
  readonly #parts: SessionParts
  readonly #receive: (message: Buffer) => void
  #creating: Promise<NativeMachine> | undefined
  #raw: Promise<NativeRaw> | undefined
  #root: Promise<LabRoot> | undefined
  readonly #directories: LabDirectory[] = []
  #ended = false

  constructor(parts: SessionParts) {
    this.#parts = parts
    const { rpc, receive } = openRpc<ClientFunctions, LabFunctions>(
      this.#functions(),
      ['event', 'output'],
      parts.post,
    )
    this.#onEvent = (event) => void rpc.event(event)
    this.#onOutput = (stream, data) => void rpc.output(stream, data)
    this.#receive = receive
  }

  readonly #onEvent: (event: MachineEvent) => void
  readonly #onOutput: ClientFunctions['output']

  readonly #listener = (event: MachineEvent) => {
    if (!this.#ended) this.#onEvent(event)
  }

  receive(message: Buffer): void {
    if (!this.#ended) this.#receive(message)
  }

  /** Stops the machine and the program, whatever state they are in, and raw access, and lets go of the session's files and checkpoints. */
  async end(): Promise<void> {
    this.#ended = true
    this.#parts.kept.release(this)
    await this.#parts.held.release(this)
    await (await this.#root?.catch(() => undefined))?.remove()
    await this.#parts.blobs.release(this)
    const [raw, machine] = await Promise.all([
      this.#raw?.catch(() => undefined),
      this.#creating?.catch(() => undefined),
    ])
    // Side by side: a thread that hangs in KVM holds up the end of the raw session.
    await Promise.all([raw?.close(), machine?.stop().catch(() => {})])
    for (const directory of this.#directories) await directory.remove()
  }

  async #machine(): Promise<NativeMachine> {
    if (!this.#creating)
      throw new KvitestError('drive the machine', 'the session has none', { code: 'ENODEV' })
    return this.#creating
  }

  #functions(): LabFunctions {
    const { addon, blobs, kept, held, description, onProgram } = this.#parts
    return {
      describe: async () => description,
      kernelFacts: () => readKernelFacts(description.kernelRelease),
      counts: async () => addon.counts(),
      kernelState: async () => ({ random: await readKernelRandom(64), now: Date.now() }),
      ping: async (data) => data,
      ensureBlob: (sha256, size) => blobs.ensure(this, sha256, size),
      writeBlob: (sha256, data) => blobs.write(this, sha256, data),
      createMachine: (spec, directories) => this.#hold(() => this.#create(spec, directories)),
      start: async () => (await this.#machine()).start(),
      stop: async () => (await this.#machine()).stop(),
      write: async (channel, data) => (await this.#machine()).write(channel, data),
      consumed: async (channel: Channel, bytes: number) => (await this.#machine()).consumed(channel, bytes),
      setPortOpen: async (channel, open) => (await this.#machine()).setPortOpen(channel, open),
      resize: async (channel, columns, rows) => (await this.#machine()).resize(channel, columns, rows),
      inspect: async () => (await this.#machine()).inspect(),
      privateMemory: async () => (await this.#machine()).privateMemory(),
      vsockListen: async (device, port, on) => (await this.#machine()).vsockListen(device, port, on),
      vsockConnect: async (device, port) => (await this.#machine()).vsockConnect(device, port),
      vsockClose: async (channel, whole) => (await this.#machine()).vsockClose(channel, whole),
      setLink: async (device, up) => (await this.#machine()).setLink(device, up),
      unplug: async (device, surprise) => (await this.#machine()).unplug(device, surprise),
      attachLun: async (device, lun) => (await this.#machine()).attachLun(device, lun),
      detachLun: async (device, lun) => (await this.#machine()).detachLun(device, lun),
      balloon: async (device, request) => (await this.#machine()).balloon(device, request),
      readDisk: async (disk, offset, length) => (await this.#machine()).readDisk(disk, offset, length),
      writeDisk: async (disk, offset, data) => (await this.#machine()).writeDisk(disk, offset, data),
      resizeDisk: async (disk, bytes) => (await this.#machine()).resizeDisk(disk, bytes),
      diskReport: async (disk) => (await this.#machine()).diskReport(disk),
      nmi: async (options) => (await this.#machine()).nmi(options),
      sendBreak: async () => (await this.#machine()).sendBreak(),
      fault: async (fault) => (await this.#machine()).fault(fault),
      keepEnd: async () => (await this.#machine()).keepEnd(),
      checkpoint: async () => this.#held(await (await this.#machine()).checkpoint()),
      reset: async (options) => (await this.#machine()).reset(options),
      adoptCheckpoint: async (id) => held.adopt(this, id),
      releaseCheckpoint: async (id) => held.take(id).release(),
      forkCheckpoint: (id, options) => this.#hold(() => held.get(id).fork(options, this.#listener)),
      forkKept: async (key, options) => {
        const found = await kept.take(this, key)
        // Ended while it waited: nobody is left who could make it.
        if (this.#ended) kept.release(this)
        if (!found || this.#ended) return undefined
        try {
          await this.#hold(() => found.checkpoint.fork(options, this.#listener))
        } finally {
          // The fork lives on without it.
          kept.release(this)
        }
        return { sidecar: found.sidecar }
      },
      keepCheckpoint: async (key, id, sidecar) =>
        kept.keep(this, key, { checkpoint: held.take(id), sidecar }),
      contents: async () => kept.keys(),
      saveCheckpoint: (id, format) => held.save(this, id, format),
      readSaved: (offset, length) => held.read(this, offset, Math.min(length, chunkSize)),
      raw: async (steps) => {
        this.#raw ??= addon.openRaw()
        return makeCalls(await this.#raw, steps)
      },
      openRoot: async (entries) => {
        if (this.#root)
          throw new KvitestError('open a pack', 'the session has one already', { code: 'EBUSY' })
        this.#root = LabRoot.make('/run/roots', entries, blobs)
        await this.#root
      },
      runProgram: async (request) => {
        const root = await this.#root
        if (!root || this.#ended)
          throw new KvitestError('run a program', 'the session has no pack', { code: 'ENOENT' })
        onProgram()
        return root.run(request, (stream, data) => {
          if (!this.#ended) this.#onOutput(stream, data)
        })
      },
      loadCheckpoint: async (sha256) => {
        try {
          return this.#held(await addon.loadCheckpoint(blobs.path(sha256)))
        } finally {
          await blobs.release(this)
        }
      },
    }
  }

  /** The session's own, unless it ended meanwhile. */
  #held(checkpoint: NativeCheckpoint): LabCheckpointInfo {
    if (this.#ended) {
      checkpoint.release()
      throw new KvitestError('make a checkpoint', 'the session ended', { code: 'ECANCELED' })
    }
    return this.#parts.held.add(this, checkpoint)
  }

  /** Makes the session's one machine; after a failure it may have another. */
  async #hold(make: () => Promise<NativeMachine>): Promise<void> {
    if (this.#creating)
      throw new KvitestError('create the machine', 'the session has one already', { code: 'EBUSY' })
    this.#creating = make()
    try {
      await this.#creating
    } catch (error) {
      this.#creating = undefined
      throw error
    }
  }

  async #create(named: MachineSpec, directories: Record<string, DirectoryEntry[]>): Promise<NativeMachine> {
    try {
      const spec = await this.#withDirectories(this.#withPaths(named), directories)
      return await this.#parts.addon.createMachine(spec, this.#listener)
    } finally {
      // The payload is in the machine's memory now, and the machine has its disks open.
      await this.#parts.blobs.release(this)
    }
  }

  /** One that is read only is the lab's, by its content, for checkpoints outlive sessions; else it is the session's own. */
  async #withDirectories(
    spec: MachineSpec,
    directories: Record<string, DirectoryEntry[]>,
  ): Promise<MachineSpec> {
    const devices: DeviceSpec[] = []
    for (const device of spec.devices) {
      if (device.type !== 'virtio-9p') {
        devices.push(device)
        continue
      }
      const { path } = await LabDirectory.take(
        directories[device.tag] ?? [],
        this.#parts.blobs,
        device.readOnly ? undefined : this.#directories,
      )
      devices.push({ ...device, path })
    }
    return { ...spec, devices }
  }

  #withPaths(named: MachineSpec): MachineSpec {
    const path = (sha256: string) => this.#parts.blobs.path(sha256)
    const devices = named.devices.map((device) => {
      if (device.type !== 'virtio-blk' || !('overlay' in device.backing)) return device
      return { ...device, backing: { overlay: path(device.backing.overlay) } }
    })
    const spec = { ...named, devices }
    const { payload } = spec
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
