import type { Pack } from '../image/pack.ts'
import type {
  CheckpointInfo,
  ForkOptions,
  KvmProbe,
  MachineControl,
  MachineEnd,
  MachineEvent,
  MachineSpec,
} from '../native/contract.ts'
import type { KernelFacts } from './kernel-facts.ts'
import type { ProgramNeed, ProgramPlace } from './program/contract.ts'
import type { RawPlace } from './raw/place.ts'

/** What a host is, for reports and for choosing one. */
export interface HostInfo {
  /** `local` or `lab:debian:6.12-cloud` */
  name: string
  /** uname -r of the kernel whose KVM runs the guests. */
  kernelRelease: string
  /** `native` (hardware KVM), `software` (ring 0 emulated), `tcg`, `nested` */
  accelerator: string
  cpus: number
  /** Bytes a guest may take at most, all guests together. */
  memory: number
  kvm: KvmProbe
}

/** A machine on a host. The same for the addon in this process and for one in a lab. */
export interface HostMachine extends MachineControl {
  /** Resolves after the `end` event; rejects with an infra KvitestError, and no `end` event comes, when the host itself is lost. */
  readonly ended: Promise<MachineEnd>
  /** As NativeMachine.checkpoint(). The checkpoint outlives the machine. */
  checkpoint(): Promise<HostCheckpoint>
}

/** A saved running machine on a host. The same for the addon in this process and for one in a lab. */
export interface HostCheckpoint {
  readonly info: CheckpointInfo
  /** A machine in the same place that goes on from here once it is started. */
  fork(options: ForkOptions, onEvent: (event: MachineEvent) => void): Promise<HostMachine>
  /** Writes it to a new file of *this* machine. */
  save(path: string): Promise<void>
  /** As NativeCheckpoint.saveCore(), to a new file of *this* machine. */
  saveCore(path: string): Promise<void>
  /** Idempotent. Its forks live on. */
  release(): Promise<void>
}

/** Where the maker of a checkpoint works: the very place that its forks will run in. */
export interface MakerPlace {
  /** As MachineHost.createMachine. */
  createMachine(spec: MachineSpec, onEvent: (event: MachineEvent) => void): Promise<HostMachine>
  /** Hands the checkpoint over to the place, with what the owner of a fork must know. */
  keep(checkpoint: HostCheckpoint, sidecar: unknown): Promise<void>
}

/** A machine forked from a checkpoint that its place keeps. */
export interface CachedFork {
  machine: HostMachine
  /** As keep() was given it. */
  sidecar: unknown
}

/** What to fork: the machine that `key` stands for. */
export interface CachedForkRequest {
  /** Names everything the checkpoint was made of. */
  key: string
  /** What a fork will take, for placing it. */
  cpus: number
  /** Bytes. */
  memory: number
  options: ForkOptions
  /** Only where this machine of the host runs, and not by the place's turn: the fork is about it. */
  beside?: HostMachine
  /** Called when the place has no such checkpoint: boots a machine there, keeps a checkpoint of it, and stops it. */
  make: (place: MakerPlace) => Promise<void>
}

/**
 * A place with a /dev/kvm that runs machines: `local` or a lab. Paths in a spec are files of *this* machine; a
 * lab uploads what it lacks, by content.
 */
export interface MachineHost extends AsyncDisposable {
  readonly info: HostInfo
  /** Creates and loads, does not start. Rejects with a KvitestError. `onEvent` follows NativeAddon.createMachine. */
  createMachine(spec: MachineSpec, onEvent: (event: MachineEvent) => void): Promise<HostMachine>
  /**
   * A fork of the checkpoint that the place keeps under a key. Who finds none makes it, while others who want the same
   * one wait; when the making fails its maker rejects with the reason, and the next one tries. `onEvent` gets nothing
   * before start().
   */
  forkCached(request: CachedForkRequest, onEvent: (event: MachineEvent) => void): Promise<CachedFork>
  /** Reads a file of *this* machine that HostCheckpoint.save() wrote. Rejects with EBADMSG for one it is not. */
  loadCheckpoint(path: string): Promise<HostCheckpoint>
  kernelFacts(): Promise<KernelFacts>
  /** A session of raw access to the host's KVM; it ends with this user's machines. */
  openRaw(): Promise<RawPlace>
  /** A place for the programs of a pack, in one lab where the host is of labs; it ends with this user's machines. */
  openPrograms(pack: Pack, need: ProgramNeed): Promise<ProgramPlace>
  /** Ends this user's machines on the host, not the host of others. */
  close(): Promise<void>
}
