import { availableParallelism, release, totalmem } from 'node:os'
import type { Pack } from '../image/pack.ts'
import { loadAddon } from '../native/addon.ts'
import type {
  BalloonReport,
  BalloonRequest,
  Channel,
  DiskReport,
  ForkOptions,
  MachineEnd,
  MachineEvent,
  MachineSpec,
  NativeAddon,
  NativeCheckpoint,
  NativeMachine,
  NmiOptions,
  ScsiLun,
  VcpuState,
  VmmFault,
} from '../native/contract.ts'
import { type Calibration, calibrateLocal, canRunLinux } from './calibrate.ts'
import { CheckpointStore, neverKept } from './checkpoint-store.ts'
import { type KernelFacts, readKernelFacts } from './kernel-facts.ts'
import type {
  CachedFork,
  CachedForkRequest,
  HostCheckpoint,
  HostInfo,
  HostMachine,
  MachineHost,
} from './machine-host.ts'
import type { ProgramPlace } from './program/contract.ts'
import { openLocalPrograms } from './program/local.ts'
import { makeCalls, type RawPlace } from './raw/place.ts'

/** The share of this machine's memory that cached checkpoints may hold. */
const checkpointShare = 1 / 4
/** How often a checkpoint that went before it was forked from is made again. */
const makeAttempts = 3

/** What one LocalHost holds: its machines, the checkpoints of its users, and those it keeps itself. */
interface Holdings {
  machines: Set<LocalMachine>
  checkpoints: Set<LocalCheckpoint>
  store: CheckpointStore<LocalCheckpoint>
  raws: Set<RawPlace>
  programs: Set<ProgramPlace>
}

class LocalMachine implements HostMachine {
  readonly ended: Promise<MachineEnd>
  readonly #native: NativeMachine
  readonly #holdings: Holdings

  constructor(native: NativeMachine, ended: Promise<MachineEnd>, holdings: Holdings) {
    this.#native = native
    this.ended = ended
    this.#holdings = holdings
    holdings.machines.add(this)
  }

  start(): Promise<void> {
    return this.#native.start()
  }

  async stop(): Promise<MachineEnd> {
    const end = await this.#native.stop()
    this.#holdings.machines.delete(this)
    return end
  }

  write(channel: Channel, data: Uint8Array): Promise<void> {
    return this.#native.write(channel, data)
  }

  consumed(channel: Channel, bytes: number): void {
    this.#native.consumed(channel, bytes)
  }

  setPortOpen(channel: Channel, open: boolean): Promise<void> {
    return this.#native.setPortOpen(channel, open)
  }

  resize(channel: Channel, columns: number, rows: number): Promise<void> {
    return this.#native.resize(channel, columns, rows)
  }

  inspect(): Promise<VcpuState[]> {
    return this.#native.inspect()
  }

  privateMemory(): Promise<number> {
    return this.#native.privateMemory()
  }

  vsockListen(device: string, port: number, on: boolean): Promise<void> {
    return this.#native.vsockListen(device, port, on)
  }

  vsockConnect(device: string, port: number): Promise<Channel> {
    return this.#native.vsockConnect(device, port)
  }

  vsockClose(channel: Channel, whole: boolean): Promise<void> {
    return this.#native.vsockClose(channel, whole)
  }

  setLink(device: string, up: boolean): Promise<void> {
    return this.#native.setLink(device, up)
  }

  unplug(device: string, surprise: boolean): Promise<void> {
    return this.#native.unplug(device, surprise)
  }

  attachLun(device: string, lun: ScsiLun): Promise<void> {
    return this.#native.attachLun(device, lun)
  }

  detachLun(device: string, lun: string): Promise<void> {
    return this.#native.detachLun(device, lun)
  }

  balloon(device: string, request?: BalloonRequest): Promise<BalloonReport> {
    return this.#native.balloon(device, request)
  }

  readDisk(disk: string, offset: number, length: number): Promise<Uint8Array> {
    return this.#native.readDisk(disk, offset, length)
  }

  writeDisk(disk: string, offset: number, data: Uint8Array): Promise<void> {
    return this.#native.writeDisk(disk, offset, data)
  }

  resizeDisk(disk: string, bytes: number): Promise<void> {
    return this.#native.resizeDisk(disk, bytes)
  }

  diskReport(disk: string): Promise<DiskReport> {
    return this.#native.diskReport(disk)
  }

  nmi(options?: NmiOptions): Promise<void> {
    return this.#native.nmi(options)
  }

  sendBreak(): Promise<void> {
    return this.#native.sendBreak()
  }

  fault(fault: VmmFault): Promise<void> {
    return this.#native.fault(fault)
  }

  keepEnd(): Promise<void> {
    return this.#native.keepEnd()
  }

  async checkpoint(): Promise<HostCheckpoint> {
    return new LocalCheckpoint(await this.#native.checkpoint(), this.#holdings)
  }

  reset(options?: ForkOptions): Promise<void> {
    return this.#native.reset(options)
  }
}

class LocalCheckpoint implements HostCheckpoint {
  readonly info: NativeCheckpoint['info']
  readonly #native: NativeCheckpoint
  readonly #holdings: Holdings

  constructor(native: NativeCheckpoint, holdings: Holdings) {
    this.info = native.info
    this.#native = native
    this.#holdings = holdings
    holdings.checkpoints.add(this)
  }

  fork(options: ForkOptions, onEvent: (event: MachineEvent) => void): Promise<HostMachine> {
    return adopt(this.#holdings, onEvent, (listener) => this.#native.fork(options, listener))
  }

  save(path: string): Promise<void> {
    return this.#native.save(path)
  }

  saveCore(path: string): Promise<void> {
    return this.#native.saveCore(path)
  }

  async release(): Promise<void> {
    this.#holdings.checkpoints.delete(this)
    this.#native.release()
  }
}

/** This machine's own /dev/kvm, driven by the addon in this process. */
export class LocalHost implements MachineHost {
  readonly info: HostInfo
  readonly calibration: Calibration
  readonly #addon: NativeAddon
  readonly #holdings: Holdings

  private constructor(addon: NativeAddon, info: HostInfo, calibration: Calibration, holdings: Holdings) {
    this.#addon = addon
    this.info = info
    this.calibration = calibration
    this.#holdings = holdings
  }

  /** Rejects with a KvitestError when there is no usable /dev/kvm (ENOENT, EACCES) or bare guests do not run on it. */
  static async open(): Promise<LocalHost> {
    const addon = loadAddon()
    const kvm = await addon.probe()
    const holdings: Holdings = {
      machines: new Set(),
      checkpoints: new Set(),
      raws: new Set(),
      programs: new Set(),
      store: new CheckpointStore(Math.floor(totalmem() * checkpointShare)),
    }
    const create = (spec: MachineSpec, onEvent: (event: MachineEvent) => void) =>
      adopt(holdings, onEvent, (listener) => addon.createMachine(spec, listener))
    const calibration = await calibrateLocal({ createMachine: create })
    const info: HostInfo = {
      name: 'local',
      kernelRelease: release(),
      accelerator: canRunLinux(calibration).yes ? 'native' : 'software',
      cpus: availableParallelism(),
      memory: Math.floor(totalmem() * 0.8),
      kvm,
    }
    return new LocalHost(addon, info, calibration, holdings)
  }

  createMachine(spec: MachineSpec, onEvent: (event: MachineEvent) => void): Promise<HostMachine> {
    return adopt(this.#holdings, onEvent, (listener) => this.#addon.createMachine(spec, listener))
  }

  async forkCached(request: CachedForkRequest, onEvent: (event: MachineEvent) => void): Promise<CachedFork> {
    const { store } = this.#holdings
    const owner = {}
    try {
      for (let attempt = 0; attempt < makeAttempts; attempt++) {
        const kept = await store.take(owner, request.key)
        if (kept) {
          return { machine: await kept.checkpoint.fork(request.options, onEvent), sidecar: kept.sidecar }
        }
        await request.make({
          createMachine: (spec, listener) => this.createMachine(spec, listener),
          keep: async (checkpoint, sidecar) =>
            store.keep(owner, request.key, { checkpoint: checkpoint as LocalCheckpoint, sidecar }),
        })
      }
    } finally {
      store.release(owner)
    }
    throw neverKept()
  }

  async loadCheckpoint(path: string): Promise<HostCheckpoint> {
    return new LocalCheckpoint(await this.#addon.loadCheckpoint(path), this.#holdings)
  }

  kernelFacts(): Promise<KernelFacts> {
    return readKernelFacts(this.info.kernelRelease)
  }

  async openRaw(): Promise<RawPlace> {
    const raw = await this.#addon.openRaw()
    const { raws } = this.#holdings
    const place: RawPlace = {
      batch: (steps) => makeCalls(raw, steps),
      close: async () => {
        await raw.close()
        raws.delete(place)
      },
    }
    raws.add(place)
    return place
  }

  async openPrograms(pack: Pack): Promise<ProgramPlace> {
    const place = openLocalPrograms(pack)
    this.#holdings.programs.add(place)
    return place
  }

  async close(): Promise<void> {
    const { machines, checkpoints, store, raws, programs } = this.#holdings
    await Promise.allSettled([
      ...[...machines].map((machine) => machine.stop()),
      ...[...raws, ...programs].map((place) => place.close()),
    ])
    store.close()
    for (const checkpoint of checkpoints) await checkpoint.release()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** Makes a machine and holds it until it was stopped. */
async function adopt(
  holdings: Holdings,
  onEvent: (event: MachineEvent) => void,
  make: (listener: (event: MachineEvent) => void) => Promise<NativeMachine>,
): Promise<HostMachine> {
  const end = Promise.withResolvers<MachineEnd>()
  const native = await make((event) => {
    onEvent(event)
    if (event.type === 'end') end.resolve(event.end)
  })
  return new LocalMachine(native, end.promise, holdings)
}
