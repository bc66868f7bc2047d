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
}

export interface QemuProcess {
  child: ChildProcess
  /** The other end of the port `org.kvitest.rpc`. */
  link: Socket
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

export function qemuArguments(options: QemuOptions): string[] {
  const acceleration =
    options.accelerator === 'tcg'
      ? // Under multi-threaded TCG a lab of two vCPUs dies now and then: one vCPU, and one lab a core.
        ['-accel', 'tcg', '-smp', '1', '-cpu', 'max']
      : ['-accel', 'kvm', '-smp', String(options.cpus), '-cpu', 'host']
  return [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-nic', 'none'],
    ...acceleration,
    ...['-m', `${Math.floor(options.memory / (1 << 20))}M`],
    ...['-kernel', options.kernel, '-initrd', options.initramfs],
    ...['-append', labCommandLine],
    ...['-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console'],
    ...['-chardev', 'socket,id=rpc,fd=3', '-device', 'virtio-serial-pci'],
    ...['-device', `virtserialport,chardev=rpc,name=${portName}`],
  ]
}

/**
 * Starts QEMU as a child that cannot outlive this process: the kernel kills it with its parent thread. The RPC
 * port is a socket that only the two of them hold.
 */
export function spawnQemu(options: QemuOptions): QemuProcess {
  const argv = ['--pdeathsig', 'KILL', '--', 'qemu-system-x86_64', ...qemuArguments(options)]
  const child = spawn('setpriv', argv, { stdio: ['ignore', 'pipe', 'pipe', 'pipe'] })
  return { child, link: child.stdio[3] as Socket, console: child.stdout! }
}
