/**
 * The typed contract of the native addon (`native/binding`). Everything here is plain data that survives the
 * structured clone algorithm, because a lab serves the same contract over RPC. Every call is asynchronous;
 * none blocks the JS thread.
 */

import type { DeviceSpec, ScsiLun } from './device-contract.ts'
import type { NativeRaw } from './raw-contract.ts'

export type * from './device-contract.ts'

/** A Linux kernel booted directly: a bzImage (64-bit entry) or an ELF vmlinux with a PVH note. Paths are on the machine the addon runs on. */
export interface LinuxPayload {
  kind: 'linux'
  kernel: string
  initramfs?: string
  cmdline: string
}

/** One small freestanding static ELF64, entered in 64-bit mode. */
export interface BarePayload {
  kind: 'bare'
  elf: string
  ring: 0 | 3
}

export interface MachineSpec {
  /** Shown in errors and thread names. */
  name: string
  /** 1..8 */
  cpus: number
  /** Bytes of RAM, a multiple of 4096; 64 MiB..8 GiB for Linux, from 1 MiB for bare guests. */
  memory: number
  payload: LinuxPayload | BarePayload
  devices: DeviceSpec[]
  /** In-kernel irqchip; Linux always has one, bare guests default to none. */
  irqchip?: boolean
}

/** `serial` is the 16550, `debug` the bare guests' port 0xe9, any other name a virtio-console port. */
export type Channel = string

export type MachineEndReason =
  /** ACPI S5. */
  | 'poweroff'
  /** i8042 or ACPI reset. */
  | 'reset'
  /** The test-exit port was written; `code` is the value. */
  | 'test-exit'
  /** KVM_EXIT_SHUTDOWN. */
  | 'triple-fault'
  /** KVM_EXIT_INTERNAL_ERROR; `code` is the suberror. */
  | 'internal-error'
  /** KVM_EXIT_FAIL_ENTRY; `code` is the hardware reason. */
  | 'fail-entry'
  /** A bare guest halted with no irqchip (KVM_EXIT_HLT). */
  | 'halt'
  /** stop() was called. */
  | 'stopped'
  /** A bug or host error on one of our own threads. */
  | 'vmm-error'

export interface VcpuState {
  index: number
  /** Hexadecimal values by register name: rip, rsp, rflags, rax.., cr0, cr2, cr3, cr4, efer, cs. */
  registers: Record<string, string>
  /** KVM_GET_MP_STATE, by name: runnable, halted, uninitialized... Absent without irqchip. */
  mpState?: string
  /** rflags.IF */
  interruptsEnabled: boolean
  /** Privilege level: 0 kernel, 3 user. */
  cpl: number
  /** Interrupt vectors that wait to be taken (LAPIC IRR), ascending. */
  pending: number[]
  /** Interrupt vectors whose handlers have not ended (LAPIC ISR), ascending. */
  inService: number[]
  /** Within the handler of an NMI: another one waits. */
  nmiMasked: boolean
}

/** A fault of our own VMM that can be asked for. */
export type VmmFault = 'throw' | 'abort'

/**
 * A disk, and who does the requests of its device: the vCPU that rang the doorbell, threads of ours, or an io_uring (only reads
 * of a file; what it leaves is for threads). A fork's disk is in memory or an overlay, so it has no io_uring.
 */
export interface DiskReport {
  bytes: number
  engine: 'vcpu' | 'threads' | 'io_uring'
  /** Requests so far, by who did them; from 0 in a fork. Of a virtio-scsi, those of all its units. */
  served: { vcpu: number; threads: number; io_uring: number }
}

/** What is asked of a balloon; all of it is done, then its report is the answer. */
export interface BalloonRequest {
  /** Bytes that the guest is to give, whole pages of 4096. */
  target?: number
  /** The driver is asked for statistics anew. */
  statistics?: boolean
  /** A round of hints at free pages begins. Rejects with EOPNOTSUPP when the driver gives none. */
  hints?: boolean
  /** Milliseconds: from now on it is asked for statistics that often; 0: no more. A fork begins without. */
  interval?: number
}

/** What a balloon has. Bytes; counters begin anew in a fork and after a reset. */
export interface BalloonReport {
  target: number
  /** In the balloon, as the guest's driver says it. */
  actual: number
  /** That came on the queues: given, taken back, and told to be free. */
  inflated: number
  deflated: number
  reported: number
  /** Told to be free in the last round of hints. */
  hinted: number
  /** Of RAM, to the host; a page counts each time. */
  givenBack: number
  /** Page numbers that are no RAM. */
  ignored: number
  /** Rounds of hints that the driver has ended. */
  rounds: number
  /** How often statistics came. */
  updates: number
  /** The last ones by tag (virtio 1.3, 5.5.6.4). */
  statistics: Record<number, number>
}

export interface NmiOptions {
  /** Default: every vCPU. */
  vcpu?: number
  /**
   * Port 0x61 names an I/O channel check as the cause: Linux then shows its registers, and panics when
   * kernel.panic_on_io_nmi is set.
   */
  ioCheck?: boolean
}

export interface MachineEnd {
  reason: MachineEndReason
  code?: number
  /** One line a person can read. */
  detail: string
  /** pvpanic was rung before the end. */
  panicked: boolean
  /** KVM exits by name, e.g. `{ io: 12345, mmio: 77, hlt: 3 }`. */
  exits: Record<string, number>
  vcpus: VcpuState[]
  /** Milliseconds from start() to the end. */
  elapsed: number
}

export type MachineEvent =
  | { type: 'data'; channel: Channel; data: Uint8Array }
  /** The guest opened or closed a named virtio-console port. */
  | { type: 'port'; channel: Channel; open: boolean }
  /**
   * A connection of a vsock. `open`: the guest connected to a port that is listened on, or accepted vsockConnect();
   * `end`: the guest sends no more; `close`: it is over, or was refused. Its bytes are 'data' of its channel.
   */
  | {
      type: 'vsock'
      device: string
      channel: Channel
      event: 'open' | 'end' | 'close'
      hostPort?: number
      guestPort?: number
    }
  /** pvpanic was rung; bit 0 panicked, bit 1 crash loaded. */
  | { type: 'pvpanic'; event: number }
  /** unplug() is done, or the guest let go of the device by itself. */
  | { type: 'unplugged'; device: string }
  /**
   * The moment of a checkpoint() or reset(): what the guest did before it was delivered before it, what it does after
   * comes after. It comes before the call's promise settles.
   */
  | { type: 'mark'; mark: 'checkpoint' | 'reset' }
  /** Always the last event, exactly once, after every byte of every channel. */
  | { type: 'end'; end: MachineEnd }

/**
 * One machine. Collected without stop(), it stops itself and leaves nothing behind. While it runs its listener is kept,
 * and the event loop stays alive, as with a child process; so is the machine if its listener refers to it.
 */
export interface NativeMachine {
  /** Starts the vCPU threads. Rejects if already started. */
  start(): Promise<void>
  /** Stops it if it runs, joins every thread, releases memory and fds. Idempotent. */
  stop(): Promise<MachineEnd>
  /** Resolves when every byte was queued to the guest's driver in order; rejects (code EPIPE) if the machine ends first. */
  write(channel: Channel, data: Uint8Array): Promise<void>
  /** Credit: `bytes` of 'data' events of this channel were taken. A channel with 256 KiB unacknowledged stops its guest's writer. */
  consumed(channel: Channel, bytes: number): void
  /** Tells the guest that the host side of a named port opened or closed. Ports begin open. */
  setPortOpen(channel: Channel, open: boolean): Promise<void>
  /** Columns and rows of an hvc console (VIRTIO_CONSOLE_RESIZE). */
  resize(channel: Channel, columns: number, rows: number): Promise<void>
  /** Samples every vCPU without changing it. */
  inspect(): Promise<VcpuState[]>
  /** Bytes of RAM that this machine alone holds: what a fork has written, all that a booted guest has touched. */
  privateMemory(): Promise<number>
  /** Whether the guest may connect to a port of the host (CID 2). */
  vsockListen(device: string, port: number, on: boolean): Promise<void>
  /** Asks the guest for a connection; a 'vsock' event of the channel tells whether it accepts. */
  vsockConnect(device: string, port: number): Promise<Channel>
  /**
   * The host sends no more; with `whole`, it takes no more either. What was written is sent before. Once for every
   * channel, also for one that is over: only then it counts no more against the 256 that there may be.
   */
  vsockClose(channel: Channel, whole: boolean): Promise<void>
  /** Plugs the cable of a network device in or out: VIRTIO_NET_F_STATUS. */
  setLink(device: string, up: boolean): Promise<void>
  /**
   * A logical unit that appears, and one that goes; the guest is told by an event. Reject with ENOENT for no such
   * virtio-scsi or unit, EEXIST for a name or a number that is taken. A fork has the units of its checkpoint's moment.
   */
  attachLun(device: string, lun: ScsiLun): Promise<void>
  detachLun(device: string, lun: string): Promise<void>
  /** Rejects with ENOENT for no such virtio-balloon. */
  balloon(device: string, request?: BalloonRequest): Promise<BalloonReport>
  /**
   * Takes a PCI device away, by its name, a console by its first port's, a virtio-9p by its tag, another by its type.
   * Asks the guest to let go of it; with `surprise`, it is gone at once. An 'unplugged' event says when it is. A disk's
   * content can still be read. Rejects with ENOENT for no such device, EINVAL for one of virtio-mmio, ENODEV for one that
   * is gone.
   */
  unplug(device: string, surprise: boolean): Promise<void>
  /**
   * Bytes of a disk as they are now, whatever the guest has under way; 16 MiB at most. Rejects with ENOENT for no such
   * disk, EINVAL for a range that is not inside.
   */
  readDisk(disk: string, offset: number, length: number): Promise<Uint8Array>
  /** As readDisk(). The guest's own caches do not learn of it. */
  writeDisk(disk: string, offset: number, data: Uint8Array): Promise<void>
  /** Bytes, a multiple of its block size; the guest is told by a configuration change interrupt. */
  resizeDisk(disk: string, bytes: number): Promise<void>
  diskReport(disk: string): Promise<DiskReport>
  /** Injects an NMI (KVM_NMI); needs the irqchip. */
  nmi(options?: NmiOptions): Promise<void>
  /** A break on the serial line: with the key that follows it, a system request to Linux. */
  sendBreak(): Promise<void>
  /**
   * For tests of what becomes of a run whose VMM is at fault: the thread of the first vCPU throws, which ends the machine
   * (`vmm-error`), or aborts, which ends the process and every machine in it.
   */
  fault(fault: VmmFault): Promise<void>
  /**
   * From now on the guest's end leaves a checkpoint of what it was then, with which checkpoint() answers after it: for
   * saveCore(). It is not fit to be forked.
   */
  keepEnd(): Promise<void>
  /**
   * Saves the running guest as it is at one moment, with the bytes that write() has not yet handed to its driver; the
   * guest goes on. Rejects with EBUSY while another checkpoint or reset is being made, with EPIPE when it has ended.
   */
  checkpoint(): Promise<NativeCheckpoint>
  /**
   * Takes a fork back to its checkpoint, in place, by copying back the pages that were written since; it runs on from
   * there. Writes still on their way reject with ECANCELED. Rejects with EINVAL for a machine that was booted.
   */
  reset(options?: ForkOptions): Promise<void>
}

/** What can be asked of a running machine wherever it runs: all but its checkpoints, which are things of their place. */
export type MachineControl = Omit<NativeMachine, 'checkpoint'>

/** What a fork's device has of its own. */
export interface DeviceChange {
  /** Of a disk. The guest learns of it when its driver probes, or asks again (`/sys/block/vda/serial`). */
  serial?: string
  /** Of a network device. The guest learns of it when its driver probes. */
  mac?: string
  /** Of a network device on a switch: the network that it is on from there on; on a tap: the interface. */
  network?: string
  /** Of a vsock. The guest is told at once; its connections are gone. */
  cid?: number
  /** Of a vsock with Unix sockets: where they are; its parent keeps its own. */
  path?: string
}

export interface ForkOptions {
  /** By the device's name. Not for reset(). */
  devices?: Record<string, DeviceChange>
  /** Default: the checkpoint's. */
  name?: string
  /** 16 bytes for the VM generation ID device; default random. Two forks must never share it. */
  generationId?: Uint8Array
  /** What the caller believes the checkpoint to be: EINVAL names the first that differs. */
  expected?: Partial<Pick<MachineSpec, 'cpus' | 'memory' | 'devices'>>
}

export interface CheckpointInfo {
  /** Of the machine it was taken from; the payload's paths are only a record. */
  spec: MachineSpec
  /** Bytes of RAM and disks that it holds: shared by all forks until they write. */
  bytes: number
}

/** A saved running guest, in memory. Its forks live on when it is released or collected. */
export interface NativeCheckpoint {
  readonly info: CheckpointInfo
  /** A machine that goes on from here once it is started. Its first events tell which ports are open. */
  fork(options: ForkOptions, onEvent: (event: MachineEvent) => void): Promise<NativeMachine>
  /** Writes it to a new file at `path`: a partly written one is removed. */
  save(path: string): Promise<void>
  /**
   * Writes RAM and registers as an ELF64 core to a file at `path`: a PT_LOAD for each range of RAM at its guest physical
   * address, an NT_PRSTATUS for each vCPU, the guest kernel's VMCOREINFO. Pages of zeros are holes of the file.
   */
  saveCore(path: string): Promise<void>
  /** Idempotent. */
  release(): void
}

/** Live native resources of this process, for leak tests. */
export interface NativeCounts {
  machines: number
  threads: number
  checkpoints: number
  /** Sessions of raw access that are not closed. */
  rawSessions: number
}

export interface KvmProbe {
  /** KVM_GET_API_VERSION */
  apiVersion: number
  maxVcpus: number
}

export interface NativeAddon {
  version: string
  /** Opens and asks /dev/kvm. Rejects with code ENOENT, EACCES... */
  probe(): Promise<KvmProbe>
  /** Validates, creates the VM and loads the payload. Rejects with a NativeError. */
  createMachine(spec: MachineSpec, onEvent: (event: MachineEvent) => void): Promise<NativeMachine>
  /** Reads a file that save() wrote. Rejects with EBADMSG for one that is truncated, no checkpoint or of another version. */
  loadCheckpoint(path: string): Promise<NativeCheckpoint>
  /** Raw access to KVM. Nothing is open yet. */
  openRaw(): Promise<NativeRaw>
  counts(): NativeCounts
  /** prctl(PR_SET_PDEATHSIG): this process gets `signal` when its parent dies. Throws errno errors. */
  setParentDeathSignal(signal: number): void
  /**
   * Mixes 1 to 4096 secret bytes into this machine's kernel pool, credits them and reseeds its generator
   * (RNDADDENTROPY, RNDRESEEDCRNG; random(4)). Throws errno errors; EPERM without CAP_SYS_ADMIN.
   */
  addEntropy(data: Uint8Array): void
  /** Sets this machine's wall clock, milliseconds since 1970. Throws errno errors; EPERM without CAP_SYS_TIME. */
  setClock(now: number): void
  /** The time-stamp counter and CLOCK_MONOTONIC_RAW at one moment. */
  readTsc(): { ticks: bigint; nanoseconds: bigint }
}

/** Rejections carry these beside `message` (the one line). */
export interface NativeError extends Error {
  /** errno name such as `ENOENT`, absent where none applies. */
  code?: string
  operation: string
  hint?: string
}
