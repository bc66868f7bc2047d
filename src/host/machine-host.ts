import type {
  Channel,
  KvmProbe,
  MachineEnd,
  MachineEvent,
  MachineSpec,
  VcpuState,
} from '../native/contract.ts'

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
export interface HostMachine {
  /** Resolves after the `end` event; rejects with an infra KvitestError, and no `end` event comes, when the host itself is lost. */
  readonly ended: Promise<MachineEnd>
  start(): Promise<void>
  stop(): Promise<MachineEnd>
  write(channel: Channel, data: Uint8Array): Promise<void>
  consumed(channel: Channel, bytes: number): void
  setPortOpen(channel: Channel, open: boolean): Promise<void>
  resize(channel: Channel, columns: number, rows: number): Promise<void>
  inspect(): Promise<VcpuState[]>
  nmi(): Promise<void>
}

/**
 * A place with a /dev/kvm that runs machines: `local` or a lab. Paths in a spec are files of *this* machine; a
 * lab uploads what it lacks, by content.
 */
export interface MachineHost extends AsyncDisposable {
  readonly info: HostInfo
  /** Creates and loads, does not start. Rejects with a KvitestError. `onEvent` follows NativeAddon.createMachine. */
  createMachine(spec: MachineSpec, onEvent: (event: MachineEvent) => void): Promise<HostMachine>
  /** Ends this user's machines on the host, not the host of others. */
  close(): Promise<void>
}
