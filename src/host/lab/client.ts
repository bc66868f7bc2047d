import { readFile } from 'node:fs/promises'
import type { Pack } from '../../image/pack.ts'
import { resolveKernel } from '../../image/resolve.ts'
import type {
  BalloonReport,
  BalloonRequest,
  Channel,
  CheckpointInfo,
  DiskReport,
  ForkOptions,
  MachineEnd,
  MachineEvent,
  MachineSpec,
  NmiOptions,
  ScsiLun,
  VcpuState,
  VmmFault,
} from '../../native/contract.ts'
import { KvitestError } from '../../native/error.ts'
import { neverKept } from '../checkpoint-store.ts'
import type { KernelFacts } from '../kernel-facts.ts'
import type {
  CachedFork,
  CachedForkRequest,
  HostCheckpoint,
  HostInfo,
  HostMachine,
  MachineHost,
} from '../machine-host.ts'
import type { ProgramNeed, ProgramPlace } from '../program/contract.ts'
import type { RawPlace } from '../raw/place.ts'
import { LabConnection, type LabRpc } from './connection.ts'
import { openLabPrograms } from './programs.ts'
import { chunkSize, type SavedFormat } from './rpc.ts'
import { fetchSaved, sendDirectories, sendFile, sendFiles, window } from './transfer.ts'

/** How often a checkpoint that went before it was forked from is made again. */
const makeAttempts = 3

/** What one LabHost holds, and how its parts get at each other's lab. */
interface Holdings {
  machines: Set<LabMachine>
  checkpoints: Set<LabCheckpoint>
  raws: Set<RawPlace>
  programs: Set<ProgramPlace>
  connect(onEvent: (event: MachineEvent) => void): LabConnection
  /** The kernel of the labs. */
  kernel: string
}

class LabMachine implements HostMachine {
  readonly ended: Promise<MachineEnd>
  readonly #connection: LabConnection
  readonly #rpc: LabRpc
  readonly #writes = new Map<Channel, Promise<void>>()
  /** Counts resets. */
  #epoch = 0
  readonly #holdings: Holdings
  /** Name of the lab it runs in. */
  readonly lab: string
  #stopping: Promise<MachineEnd> | undefined

  constructor(connection: LabConnection, lab: string, end: Promise<MachineEnd>, holdings: Holdings) {
    this.#connection = connection
    this.#rpc = connection.rpc
    this.lab = lab
    this.#holdings = holdings
    holdings.machines.add(this)
    this.ended = Promise.race([end, connection.lost])
    this.ended.catch(() => {})
  }

  start(): Promise<void> {
    return this.#call(() => this.#rpc.start())
  }

  stop(): Promise<MachineEnd> {
    this.#stopping ??= this.#stop()
    return this.#stopping
  }

  write(channel: Channel, data: Uint8Array): Promise<void> {
    // One write after the other: a long one is cut into several calls.
    const before = this.#writes.get(channel) ?? Promise.resolve()
    const epoch = this.#epoch
    const mine = before.then(() => this.#call(() => this.#send(channel, data, epoch)))
    this.#writes.set(
      channel,
      mine.catch(() => {}),
    )
    return mine
  }

  consumed(channel: Channel, bytes: number): void {
    if (!this.#rpc.$closed) this.#rpc.consumed(channel, bytes).catch(() => {})
  }

  setPortOpen(channel: Channel, open: boolean): Promise<void> {
    return this.#call(() => this.#rpc.setPortOpen(channel, open))
  }

  resize(channel: Channel, columns: number, rows: number): Promise<void> {
    return this.#call(() => this.#rpc.resize(channel, columns, rows))
  }

  inspect(): Promise<VcpuState[]> {
    return this.#call(() => this.#rpc.inspect())
  }

  privateMemory(): Promise<number> {
    return this.#call(() => this.#rpc.privateMemory())
  }

  vsockListen(device: string, port: number, on: boolean): Promise<void> {
    return this.#call(() => this.#rpc.vsockListen(device, port, on))
  }

  vsockConnect(device: string, port: number): Promise<Channel> {
    return this.#call(() => this.#rpc.vsockConnect(device, port))
  }

  vsockClose(channel: Channel, whole: boolean): Promise<void> {
    return this.#call(() => this.#rpc.vsockClose(channel, whole))
  }

  setLink(device: string, up: boolean): Promise<void> {
    return this.#call(() => this.#rpc.setLink(device, up))
  }

  unplug(device: string, surprise: boolean): Promise<void> {
    return this.#call(() => this.#rpc.unplug(device, surprise))
  }

  attachLun(device: string, lun: ScsiLun): Promise<void> {
    return this.#call(() => this.#rpc.attachLun(device, lun))
  }

  detachLun(device: string, lun: string): Promise<void> {
    return this.#call(() => this.#rpc.detachLun(device, lun))
  }

  balloon(device: string, request?: BalloonRequest): Promise<BalloonReport> {
    return this.#call(() => this.#rpc.balloon(device, request))
  }

  readDisk(disk: string, offset: number, length: number): Promise<Uint8Array> {
    return this.#call(() => this.#rpc.readDisk(disk, offset, length))
  }

  writeDisk(disk: string, offset: number, data: Uint8Array): Promise<void> {
    return this.#call(() => this.#rpc.writeDisk(disk, offset, data))
  }

  resizeDisk(disk: string, bytes: number): Promise<void> {
    return this.#call(() => this.#rpc.resizeDisk(disk, bytes))
  }

  diskReport(disk: string): Promise<DiskReport> {
    return this.#call(() => this.#rpc.diskReport(disk))
  }

  nmi(options?: NmiOptions): Promise<void> {
    return this.#call(() => this.#rpc.nmi(options))
  }

  sendBreak(): Promise<void> {
    return this.#call(() => this.#rpc.sendBreak())
  }

  fault(fault: VmmFault): Promise<void> {
    return this.#call(() => this.#rpc.fault(fault))
  }

  keepEnd(): Promise<void> {
    return this.#call(() => this.#rpc.keepEnd())
  }

  async checkpoint(): Promise<HostCheckpoint> {
    const { id, info } = await this.#call(() => this.#rpc.checkpoint())
    // A session of its own: the checkpoint outlives the machine.
    const connection = this.#holdings.connect(() => {})
    try {
      await connection.open({ kernel: this.#holdings.kernel, cpus: 0, memory: 0, lab: this.lab })
      await connection.rpc.adoptCheckpoint(id)
    } catch (error) {
      connection.close()
      throw error
    }
    return new LabCheckpoint(connection, this.lab, id, info, this.#holdings)
  }

  reset(options?: ForkOptions): Promise<void> {
    // What waits for its turn here was meant for the time before.
    this.#epoch++
    this.#writes.clear()
    return this.#call(() => this.#rpc.reset(options))
  }

  /** After the session's end a call says why it ended. */
  async #call<T>(call: () => Promise<T>): Promise<T> {
    if (this.#rpc.$closed) return this.#connection.lost
    return call()
  }

  async #stop(): Promise<MachineEnd> {
    try {
      const end = await this.#call(() => this.#rpc.stop())
      // Every event, the end among them, was sent before the answer.
      await this.ended
      return end
    } finally {
      this.#connection.close()
      this.#holdings.machines.delete(this)
    }
  }

  async #send(channel: Channel, data: Uint8Array, epoch: number): Promise<void> {
    const onTheWay: Promise<void>[] = []
    for (let at = 0; at < data.length || at === 0; at += chunkSize) {
      if (onTheWay.length >= window) await onTheWay.shift()
      if (epoch !== this.#epoch) {
        throw new KvitestError('write', `${channel}: the machine was reset`, {
          code: 'ECANCELED',
          infra: false,
        })
      }
      const sent = this.#rpc.write(channel, data.subarray(at, at + chunkSize))
      sent.catch(() => {})
      onTheWay.push(sent)
    }
    await Promise.all(onTheWay)
  }
}

/** A checkpoint in a lab, held by a session of its own. */
class LabCheckpoint implements HostCheckpoint {
  readonly info: CheckpointInfo
  readonly id: number
  readonly #connection: LabConnection
  readonly #lab: string
  readonly #holdings: Holdings

  constructor(connection: LabConnection, lab: string, id: number, info: CheckpointInfo, holdings: Holdings) {
    this.#connection = connection
    this.#lab = lab
    this.id = id
    this.info = info
    this.#holdings = holdings
    holdings.checkpoints.add(this)
  }

  async fork(options: ForkOptions, onEvent: (event: MachineEvent) => void): Promise<HostMachine> {
    const { kernel } = this.#holdings
    const { cpus, memory } = this.info.spec
    const want = { kernel, cpus, memory, lab: this.#lab }
    return openMachine(this.#holdings, want, onEvent, async ({ rpc }) => {
      await rpc.forkCheckpoint(this.id, options)
    })
  }

  save(path: string): Promise<void> {
    return this.#fetch(path, 'checkpoint')
  }

  saveCore(path: string): Promise<void> {
    return this.#fetch(path, 'core')
  }

  async #fetch(path: string, format: SavedFormat): Promise<void> {
    if (this.#connection.rpc.$closed) return this.#connection.lost
    const size = await this.#connection.rpc.saveCheckpoint(this.id, format)
    await fetchSaved(this.#connection.rpc, size, path)
  }

  async release(): Promise<void> {
    this.#holdings.checkpoints.delete(this)
    this.#connection.close()
  }
}

/** A session with a machine in it, which `make` makes; the session ends when that fails. */
async function openMachine(
  holdings: Holdings,
  want: Parameters<LabConnection['open']>[0],
  onEvent: (event: MachineEvent) => void,
  make: (connection: LabConnection, lab: string) => Promise<void>,
): Promise<HostMachine> {
  const end = Promise.withResolvers<MachineEnd>()
  const connection = holdings.connect((event) => {
    onEvent(event)
    if (event.type === 'end') end.resolve(event.end)
  })
  try {
    const { lab } = await connection.open(want)
    await make(connection, lab)
    return new LabMachine(connection, lab, end.promise, holdings)
  } catch (error) {
    connection.close()
    throw error
  }
}

/** The labs of a broker as one host; every machine has its own session, put where there is least to do. */
export class LabHost implements MachineHost {
  readonly info: HostInfo
  readonly #socketPath: string
  readonly #holdings: Holdings

  private constructor(socketPath: string, kernel: string, info: HostInfo) {
    this.#socketPath = socketPath
    this.#holdings = {
      machines: new Set(),
      checkpoints: new Set(),
      raws: new Set(),
      programs: new Set(),
      connect: (onEvent) => new LabConnection(socketPath, onEvent),
      kernel,
    }
    this.info = info
  }

  /** Starts a lab of that kernel if none runs yet, and asks it what it is. */
  static async connect(socketPath: string, kernel: string): Promise<LabHost> {
    const connection = new LabConnection(socketPath, () => {})
    try {
      const opened = await connection.open({ kernel, cpus: 0, memory: 0 })
      const lab = await connection.rpc.describe()
      return new LabHost(socketPath, kernel, {
        name: `lab:${kernel}`,
        kernelRelease: lab.kernelRelease,
        accelerator: opened.accelerator,
        cpus: lab.cpus * opened.labs,
        memory: lab.memory * opened.labs,
        kvm: lab.kvm,
      })
    } finally {
      connection.close()
    }
  }

  createMachine(spec: MachineSpec, onEvent: (event: MachineEvent) => void): Promise<HostMachine> {
    return this.#createMachine(spec, onEvent)
  }

  async forkCached(
    { key, cpus, memory, options, beside, make }: CachedForkRequest,
    onEvent: (event: MachineEvent) => void,
  ): Promise<CachedFork> {
    let sidecar: unknown
    const where = beside instanceof LabMachine ? { lab: beside.lab } : {}
    const want = { kernel: this.#holdings.kernel, cpus, memory, checkpoint: key, ...where }
    const machine = await openMachine(this.#holdings, want, onEvent, async ({ rpc }, lab) => {
      for (let attempt = 0; attempt < makeAttempts; attempt++) {
        const fork = await rpc.forkKept(key, options)
        sidecar = fork?.sidecar
        if (fork) return
        // This session stays the maker; the machine to be saved has one of its own beside it.
        await make({
          createMachine: (spec, listener) => this.#createMachine(spec, listener, lab),
          keep: async (checkpoint, made) => {
            await rpc.keepCheckpoint(key, (checkpoint as LabCheckpoint).id, made)
            await checkpoint.release()
          },
        })
      }
      throw neverKept()
    })
    return { machine, sidecar }
  }

  async loadCheckpoint(path: string): Promise<HostCheckpoint> {
    const connection = this.#holdings.connect(() => {})
    try {
      const { lab } = await connection.open({ kernel: this.#holdings.kernel, cpus: 0, memory: 0 })
      const { id, info } = await connection.rpc.loadCheckpoint(await sendFile(connection.rpc, path))
      return new LabCheckpoint(connection, lab, id, info, this.#holdings)
    } catch (error) {
      connection.close()
      throw error
    }
  }

  async kernelFacts(): Promise<KernelFacts> {
    const connection = this.#holdings.connect(() => {})
    try {
      const { kernel } = this.#holdings
      await connection.open({ kernel, cpus: 0, memory: 0 })
      const facts = await connection.rpc.kernelFacts()
      if (facts.config !== undefined) return facts
      // Not in the lab's file system, but beside the image that it booted.
      const { config } = await resolveKernel(kernel)
      return config === undefined ? facts : { ...facts, config: await readFile(config, 'utf8') }
    } finally {
      connection.close()
    }
  }

  async openRaw(): Promise<RawPlace> {
    const connection = this.#holdings.connect(() => {})
    try {
      await connection.open({ kernel: this.#holdings.kernel, cpus: 1, memory: 0 })
    } catch (error) {
      connection.close()
      throw error
    }
    const { raws } = this.#holdings
    const place: RawPlace = {
      batch: (steps) => (connection.rpc.$closed ? connection.lost : connection.rpc.raw(steps)),
      close: async () => {
        raws.delete(place)
        connection.close()
      },
    }
    raws.add(place)
    return place
  }

  async openPrograms(pack: Pack, need: ProgramNeed): Promise<ProgramPlace> {
    const { kernel, programs } = this.#holdings
    const place = await openLabPrograms(this.#socketPath, kernel, pack, need)
    programs.add(place)
    return place
  }

  async close(): Promise<void> {
    const { machines, checkpoints, raws, programs } = this.#holdings
    await Promise.allSettled([...machines].map((machine) => machine.stop()))
    for (const place of [...raws, ...programs]) await place.close()
    for (const checkpoint of checkpoints) await checkpoint.release()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** In the given lab it is the maker of a checkpoint, and in the place of the fork that waits for that. */
  #createMachine(
    spec: MachineSpec,
    onEvent: (event: MachineEvent) => void,
    lab?: string,
  ): Promise<HostMachine> {
    const { kernel } = this.#holdings
    const want = lab ? { kernel, cpus: 0, memory: 0, lab } : { kernel, cpus: spec.cpus, memory: spec.memory }
    return openMachine(this.#holdings, want, onEvent, async ({ rpc }) => {
      await rpc.createMachine(await sendFiles(rpc, spec), await sendDirectories(rpc, spec))
    })
  }
}
