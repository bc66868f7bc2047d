import type { Duplex } from 'node:stream'
import type { KernelFacts } from '../host/kernel-facts.ts'
import type { HostInfo } from '../host/machine-host.ts'
import type { RawKvm } from '../host/raw/kvm.ts'
import type { KernelEntry } from '../image/boot-image.ts'
import type { KernelInfo } from '../image/kernel.ts'
import type {
  BalloonReport,
  DeviceChange,
  DeviceSpec,
  DiskReport,
  MachineEnd,
  ScsiLun,
  VcpuState,
  VmmFault,
} from '../native/contract.ts'
import type { Point, TapSummary } from '../tap/types.ts'
import type { AllowedSplat } from '../verdict/expectations.ts'
import type { Judgement } from '../verdict/types.ts'
import type { IdleLimitOption } from './idle-limits.ts'
import type { GuestRecord } from './record.ts'

/** What a test author asks for; every field has a default. */
export interface BootOptions {
  /** `debian:6.12-cloud`, `debian:6.1-cloud`, an exact build `debian:6.12.115-cloud`, `debian:6.12-generic`, or a path. */
  kernel?: string
  /** `auto` (default): by PVH where the kernel can, else its bzImage. */
  entry?: KernelEntry
  cpus?: number
  /** Bytes or `256M`, `2G`. */
  memory?: number | string
  /** Devices besides the agent's own console device. */
  devices?: DeviceSpec[]
  /** Appended to the command line we make. */
  cmdline?: string
  /** Extra files for the guest: guest path -> file on this machine. */
  files?: Record<string, string>
  /** Kernel modules to load besides those the devices need. */
  modules?: string[]
  /**
   * Debian packages to have in the guest with all that they depend on, from the archive that this machine's apt knows:
   * `['fio']`. They are on a read-only disk of their own (docs/tap-scripts.md, Packages).
   */
  packages?: string[]
  name?: string
  /** Milliseconds from start to the agent's handshake. Default 60 000, and 300 000 where the host emulates. */
  bootTimeout?: number
  /**
   * Milliseconds of silence after which the guest counts as hung, is diagnosed and stopped: one number, or apart for its
   * boot, its scripts and its shutdown. Default 20 000 each; 0 never.
   */
  idleLimit?: IdleLimitOption
  /** Keep memory and registers of a guest that ends badly, for saveCore(). Default false. */
  core?: boolean
  /**
   * What the kernel log shows on the serial console: messages below this level. Default 7, nearly all; 5, warnings and
   * worse, on a host where a guest's exits are slow (`tcg`, `software`): there every character costs a third of a
   * millisecond. `dmesg` in the guest has all of it.
   */
  loglevel?: number
  /** Every line of the serial console, from the very first; `milliseconds` since the machine started. */
  onConsoleLine?: (line: string, milliseconds: number) => void
  /** Known splats that make no `oops`; what is allowed is in the end's evidence. Entries of an `*.expect.yaml`. */
  allowedSplats?: readonly AllowedSplat[]
}

export interface ExecOptions {
  env?: Record<string, string>
  cwd?: string
  /** Milliseconds; the whole process group is killed. Default 0, none. */
  timeout?: number
  stdin?: Uint8Array | string
  onStdout?: (data: Uint8Array) => void
  onStderr?: (data: Uint8Array) => void
  signal?: AbortSignal
}

export interface ExecResult {
  /** Exit status, or null when a signal or the timeout ended it. */
  status: number | null
  /** `SIGKILL`, or null. */
  signal: string | null
  timedOut: boolean
  stdout: string
  stderr: string
  /** Milliseconds, measured in the guest. */
  duration: number
}

/** A running process in a guest: what `exec` and `kvitest run` are made of. */
export interface SpawnOptions {
  env?: Record<string, string>
  cwd?: string
  timeout?: number
  /** A pseudo-terminal of this size; stderr then arrives as stdout. */
  pty?: { rows: number; columns: number }
  /** Keep stdin open for writeStdin(); otherwise it is /dev/null. */
  stdin?: boolean
  onStdout?: (data: Uint8Array) => void
  onStderr?: (data: Uint8Array) => void
}

export interface GuestProcess {
  readonly pid: number
  readonly exited: Promise<{
    status: number | null
    signal: string | null
    timedOut: boolean
    duration: number
  }>
  /** Resolves when the agent has room for it (credit). */
  writeStdin(data: Uint8Array | string): Promise<void>
  closeStdin(): Promise<void>
  /** To the whole process group; name or number. */
  kill(signal: string | number): Promise<void>
  resize(rows: number, columns: number): Promise<void>
}

export interface RunOptions extends ExecOptions {
  /** Called for every settled point, live. */
  onPoint?: (point: Point) => void
  /** A non-TAP line of stdout. */
  onDiagnostic?: (line: string) => void
}

export interface RunResult extends ExecResult {
  tap: TapSummary
}

/** How a guest ended: exactly one verdict with its evidence. */
export interface GuestEnd extends Judgement {
  machine: MachineEnd | undefined
}

/** The kernel log and everything else the guest printed on its serial console. */
export interface ConsoleLog {
  text(): string
  lines(): string[]
  /** Resolves with the matching line; rejects when the guest ends or after `timeout` ms. */
  waitFor(pattern: RegExp, timeout?: number): Promise<string>
  onLine(listener: (line: string, milliseconds: number) => void): () => void
}

/** The host's end of a named virtio-console port. */
export interface GuestPort {
  readonly name: string
  readonly open: boolean
  write(data: Uint8Array | string): Promise<void>
  /** Takes over the port's bytes; unread bytes hold the guest's writer back (flow control). */
  [Symbol.asyncIterator](): AsyncIterator<Uint8Array>
  setOpen(open: boolean): Promise<void>
  /** Columns and rows of an hvc console port (VIRTIO_CONSOLE_RESIZE). */
  resize(columns: number, rows: number): Promise<void>
  /** Resolves when the guest side is open (or closed). */
  whenOpen(open?: boolean): Promise<void>
}

/** The host's side of a virtio-blk device's disk: the bytes as they are, whatever the guest's caches say. */
export interface GuestDisk {
  readonly name: string
  /** Bytes. */
  size(): Promise<number>
  /** Who does its requests, and how many each did. */
  report(): Promise<DiskReport>
  /** Offsets and lengths in bytes, of any alignment. Rejects with EINVAL for a range that is not inside. */
  read(offset: number, length: number): Promise<Uint8Array>
  write(offset: number, data: Uint8Array | string): Promise<void>
  /** To so many bytes; the guest is told. */
  resize(bytes: number): Promise<void>
  /** Lowercase hexadecimal, of all of it or of a range. */
  sha256(offset?: number, length?: number): Promise<string>
}

/** A port of the host that guests connect to. */
export interface VsockListener extends AsyncDisposable {
  readonly port: number
  /** Connections that were made stay. */
  close(): Promise<void>
}

/** The host's side of a virtio-scsi device. */
export interface GuestScsi {
  readonly name: string
  /** Of a logical unit, also of one that was attached; its calls reject with ENOENT when there is none of that name. */
  disk(lun: string): GuestDisk
  /** The guest is told by an event: HOTPLUG. */
  attach(lun: ScsiLun): Promise<GuestDisk>
  detach(lun: string): Promise<void>
}

/** What a balloon's driver says of its guest, as far as its kernel has it: bytes, or how often it happened. */
export interface BalloonStatistics {
  swapIn?: number
  swapOut?: number
  majorFaults?: number
  minorFaults?: number
  free?: number
  total?: number
  available?: number
  caches?: number
  hugetlbAllocations?: number
  hugetlbFailures?: number
  oomKills?: number
  allocationStalls?: number
  asyncScans?: number
  directScans?: number
  asyncReclaims?: number
  directReclaims?: number
}

/** The host's side of a virtio-balloon device. Timeouts are milliseconds, default 30 s; they reject with ETIMEDOUT. */
export interface GuestBalloon {
  readonly name: string
  report(): Promise<BalloonReport>
  /** What the guest is to give; it is not waited for. */
  setTarget(bytes: number): Promise<void>
  /** Sets the target and waits until the driver says that it is reached, from above or below. */
  inflate(bytes: number, options?: { timeout?: number }): Promise<BalloonReport>
  /** Asks the driver, and waits for the answer. */
  statistics(options?: { timeout?: number }): Promise<BalloonStatistics>
  /** Has the driver asked each `interval` milliseconds, 0: no more; report() has the last answer. */
  poll(interval: number): Promise<void>
  /** A round of free page hints; bytes that the driver named. */
  hints(options?: { timeout?: number }): Promise<number>
}

/** The host's side of a virtio-vsock device: streams between the guest and this process, with flow control. */
export interface GuestVsock {
  readonly name: string
  /** Accepts connections of the guest to this port of CID 2. Rejects with EADDRINUSE for a port listened on already. */
  listen(port: number, onSocket: (socket: Duplex) => void): Promise<VsockListener>
  /** Connects to a port that a program of the guest listens on. Rejects with ECONNREFUSED when none does. */
  connect(port: number): Promise<Duplex>
}

export interface GuestForkOptions {
  name?: string
  /**
   * What its devices have of their own, by device name: `{ disk0: { serial: 'B' }, net0: { mac: '02:00:00:00:00:07' } }`.
   * A MAC address is the device's from the first moment; Linux reads it when its driver starts only, so it is set in
   * the guest too before the fork is handed over.
   */
  devices?: Record<string, DeviceChange>
  /**
   * The wall clock of the fork: `resume` (default) goes on where the checkpoint stopped, `now` jumps to the present.
   * The monotonic clock never jumps.
   */
  clock?: 'resume' | 'now'
  /** What the caller believes the guest to have: the fork is refused when it differs. Memory in bytes. */
  expected?: { cpus?: number; memory?: number }
  /** As in BootOptions, until the fork answers. */
  bootTimeout?: number
  /** As in BootOptions. */
  idleLimit?: IdleLimitOption
  /** As in BootOptions. */
  core?: boolean
  /** Every line of the fork's serial console from its fork on; `milliseconds` since then. */
  onConsoleLine?: ((line: string, milliseconds: number) => void) | undefined
  /** As in BootOptions. */
  allowedSplats?: readonly AllowedSplat[] | undefined
}

/**
 * A saved guest: any number of guests can go on from that moment, each with memory, devices, random numbers and ids of
 * its own. It outlives the guest it was taken from, and its forks outlive it.
 */
export interface GuestCheckpoint extends AsyncDisposable {
  readonly cpus: number
  /** Bytes. */
  readonly memory: number
  /** Bytes of the host's memory that it holds. */
  readonly bytes: number
  fork(options?: GuestForkOptions): Promise<Guest>
  /** Writes it to a file, which Host.restore() takes; nothing is at `path` when that fails. */
  save(path: string): Promise<void>
  /** As Guest.saveCore(), of the moment of the checkpoint. */
  saveCore(path: string): Promise<void>
  /** Idempotent. */
  release(): Promise<void>
}

/** What Guest.reset() may say of the clock. */
export type GuestResetOptions = Pick<GuestForkOptions, 'clock'>

export interface Guest extends AsyncDisposable {
  readonly name: string
  readonly kernel: KernelInfo
  /** uname -r, as the agent reported it. */
  readonly kernelRelease: string
  readonly host: HostInfo
  readonly console: ConsoleLog
  readonly ended: Promise<GuestEnd>
  /** Milliseconds from machine start to the agent's handshake; of a fork, from the request to the agent's answer. */
  readonly bootTime: number
  /** Of a fork only: the guest that was booted. */
  readonly forkedFrom?: { name: string; bootTime: number } | undefined
  spawn(argv: string[], options?: SpawnOptions): Promise<GuestProcess>
  exec(argv: string[], options?: ExecOptions): Promise<ExecResult>
  /**
   * Runs a script: text that begins with `#!` or a newline, or a path of a file on this machine. Rejects with a
   * GuestError when the guest ends first.
   */
  run(script: string, options?: RunOptions): Promise<RunResult>
  writeFile(path: string, data: Uint8Array | string, mode?: number): Promise<void>
  port(name: string): GuestPort
  /** The virtio-vsock device of that name, default `vsock0`. Throws ENOENT when there is none. */
  vsock(name?: string): GuestVsock
  /** Plugs the cable of a virtio-net device in or out. */
  setLink(device: string, up: boolean): Promise<void>
  /**
   * Takes a PCI device out of the running guest, by its name, a console by its first port's, a virtio-9p by its tag,
   * virtio-rng by its type. Asks for it as a hotplug slot's button does and resolves when the guest ejected it; with
   * `surprise` it is gone at once and the guest finds out. Its disk can still be read. Rejects with EPIPE when the guest
   * ends first.
   */
  unplug(device: string, options?: { surprise?: boolean }): Promise<void>
  /** The virtio-balloon device of that name, default `balloon0`. Throws ENOENT when there is none. */
  balloon(name?: string): GuestBalloon
  /** The virtio-scsi device of that name, default `scsi0`. Throws ENOENT when there is none. */
  scsi(name?: string): GuestScsi
  /** Throws ENOENT when no virtio-blk device has that name. */
  disk(name: string): GuestDisk
  inspect(): Promise<VcpuState[]>
  /** Bytes of RAM that this guest alone holds; a fork shares all that it has not written. */
  privateMemory(): Promise<number>
  /** Saves the guest as it is now; it goes on. Rejects with EBUSY while another checkpoint or reset is being made. */
  checkpoint(): Promise<GuestCheckpoint>
  /**
   * A second guest that goes on from this very moment. What its `console` shows begins with what this guest's showed.
   * A process that runs now goes on in both; its output in the fork has no listener.
   */
  fork(options?: GuestForkOptions): Promise<Guest>
  /**
   * Takes a fork back to its checkpoint, in place. Calls that wait reject with ECANCELED; unread bytes of ports are
   * dropped; the console keeps what it showed, and a line says where the reset was. Scripts that ran, and splats that
   * were seen, still count for its verdict. Rejects with EINVAL for a guest that was booted.
   */
  reset(options?: GuestResetOptions): Promise<void>
  /** Resets so far. */
  readonly resets: number
  /**
   * For tests of what becomes of a run when kvitest's own VMM is at fault: a thread of this guest's machine fails
   * (`throw`), or takes its process and every guest in it along (`abort`; on the host `local` that is this process).
   */
  faultVmm(fault: VmmFault): Promise<void>
  /** What was seen of it so far, for a person who looks into it later. */
  record(): GuestRecord
  /**
   * Writes memory and registers to a new file as an ELF64 core, which gdb, crash and drgn open: of a live guest as they
   * are now, of one that ended badly and was started with `core` as they were at its end.
   */
  saveCore(path: string): Promise<void>
  /**
   * Power-off asked for through the agent. A guest that does not obey within its shutdown limit is a hang. `force` stops
   * it at once. Idempotent.
   */
  stop(options?: { force?: boolean }): Promise<GuestEnd>
}

/** A place where guests boot. `await using host = await openHost()`. */
export interface Host extends AsyncDisposable {
  readonly info: HostInfo
  /** A cold boot. */
  boot(options?: BootOptions): Promise<Guest>
  /**
   * A fork of a guest that was booted with these options and saved as soon as its agent greeted, before anything else
   * ran. The host keeps such checkpoints, bounded; it boots the guest when it has none, and a boot that fails or leaves
   * a splat in the kernel log rejects as a GuestError. For everything else as boot().
   */
  fork(options?: BootOptions & Pick<GuestForkOptions, 'clock'>): Promise<Guest>
  /** Reads a file that GuestCheckpoint.save() wrote. Rejects with EBADMSG for one that was truncated or changed. */
  restore(path: string): Promise<GuestCheckpoint>
  /** Raw access to the host's KVM, for checks of KVM itself. It ends with the host, if not before. */
  kvm(): Promise<RawKvm>
  /** What it says of its kernel: version, parameters of the KVM modules, configuration where that is there to read. */
  kernelFacts(): Promise<KernelFacts>
  close(): Promise<void>
}
