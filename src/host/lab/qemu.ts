import { type ChildProcess, spawn } from 'node:child_process'
import type { Socket } from 'node:net'
import type { Readable } from 'node:stream'
import { portName } from './rpc.ts'

export type LabAccelerator = 'tcg' | 'nested'

export interface QemuOptions {
  kernel: string
  initramfs: string
  accelerator: LabAccelerator
  cpus: number
  /** Bytes. */
  memory: number
  /** Of this machine's time-stamp counter, which an emulated one is. */
  tscKhz?: number
  /** Goes on from a saved lab instead of booting: descriptors of its two files. */
  saved?: { ram: number; state: number }
}

export interface QemuProcess {
  child: ChildProcess
  /** The other end of the port `org.kvitest.rpc`. */
  link: Socket
  /** The control channel, for Qmp. */
  control: Socket
  console: Readable
}

const labCommandLine = [
  'console=ttyS0 quiet',
  // An oops of the host kernel ends the lab: what it would do after that proves nothing.
  'panic=-1 oops=panic',
  // On a busy machine an emulated timer is late: the boot-time check of the IO-APIC's timer would panic, and the
  // watchdog would call the TSC unstable, which QEMU derives from the host's clock.
  'no_timer_check tsc=reliable',
].join(' ')

function commandLine({ accelerator, tscKhz }: QemuOptions): string {
  // A kernel that measures the counter on a busy machine may be wrong by a factor, and so is every clock of the lab
  // and of its guests from then on.
  const isGiven = accelerator === 'tcg' && tscKhz !== undefined
  return isGiven ? `${labCommandLine} tsc_early_khz=${tscKhz}` : labCommandLine
}

/** Descriptors that QEMU inherits. */
const descriptor = { rpc: 3, control: 4, ram: 5, state: 6 }

/** The machine itself: what a saved lab must be restored with. */
export function qemuArguments(options: QemuOptions): string[] {
  const acceleration =
    options.accelerator === 'tcg'
      ? // Under multi-threaded TCG a lab of two vCPUs dies now and then: one vCPU, and one lab a core.
        // Where a CPU says that it moves bytes fast (ERMS), kernels copy and clear memory byte by byte, and so does TCG;
        // without it they take eight at a time.
        ['-accel', 'tcg', '-smp', '1', '-cpu', 'max,-erms']
      : ['-accel', 'kvm', '-smp', String(options.cpus), '-cpu', 'host']
  return [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-nic', 'none'],
    ...acceleration,
    ...['-m', `${Math.floor(options.memory / (1 << 20))}M`],
    ...['-kernel', options.kernel, '-initrd', options.initramfs],
    ...['-append', commandLine(options)],
    ...['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
    ...['-chardev', `socket,id=rpc,fd=${descriptor.rpc}`, '-device', 'virtio-serial-pci'],
    ...['-device', `virtserialport,chardev=rpc,name=${portName}`],
    ...['-chardev', `socket,id=control,fd=${descriptor.control}`, '-mon', 'chardev=control,mode=control'],
    // The state of the devices alone, as `xen-save-devices-state` writes it, has neither of the two.
    ...['-global', 'migration.send-configuration=off', '-machine', 'suppress-vmdesc=on'],
  ]
}

/**
 * RAM mapped privately from the saved file: nothing is read before the lab touches it, labs of one file share the
 * page cache, and the file stays as it is.
 */
function restoreArguments({ memory, saved }: QemuOptions): string[] {
  if (!saved) return []
  const size = `${Math.floor(memory / (1 << 20))}M`
  return [
    '-object',
    `memory-backend-file,id=ram,size=${size},mem-path=/proc/self/fd/${descriptor.ram},share=off`,
    ...['-machine', 'memory-backend=ram', '-incoming', `fd:${descriptor.state}`],
  ]
}

/**
 * Starts QEMU as a child that cannot outlive this process: the kernel kills it with its parent thread. The RPC
 * port is a socket that only the two of them hold.
 */
export function spawnQemu(options: QemuOptions): QemuProcess {
  const machine = [...qemuArguments(options), ...restoreArguments(options)]
  const argv = ['--pdeathsig', 'KILL', '--', 'qemu-system-x86_64', ...machine]
  const files = options.saved ? [options.saved.ram, options.saved.state] : []
  const child = spawn('setpriv', argv, { stdio: ['ignore', 'pipe', 'pipe', 'pipe', 'pipe', ...files] })
  return {
    child,
    link: child.stdio[descriptor.rpc] as Socket,
    control: child.stdio[descriptor.control] as Socket,
    console: child.stdout!,
  }
}
