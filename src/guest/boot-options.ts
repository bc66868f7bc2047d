import type { DeviceSpec, MachineSpec } from '../native/contract.ts'
import { KvitestError } from '../native/error.ts'
import { bytesOf } from '../native/size.ts'
import type { AllowedSplat } from '../verdict/expectations.ts'
import { agentPort } from './agent/protocol.ts'
import { disksOf, placeDisks } from './disk.ts'
import { type IdleLimits, idleLimitsOf } from './idle-limits.ts'
import type { GuestSidecar } from './sidecar.ts'
import type { BootOptions, GuestForkOptions } from './types.ts'

const mebibyte = 1024 * 1024
const minMemory = 64 * mebibyte
const maxMemory = 8192 * mebibyte
const maxCpus = 8
/** Of the x86 boot protocol, without the NUL. */
const maxCmdline = 2047

/** Accelerators of HostInfo under which a guest's exits and arithmetic take much longer than on hardware. */
const slowHosts = ['tcg', 'software']

/** The options of a boot that need no look at the disk, checked and complete. */
export interface CheckedOptions {
  name: string
  cpus: number
  /** Bytes. */
  memory: number
  /** The agent's own device first. */
  devices: DeviceSpec[]
  /** Named ports of the caller's devices. */
  ports: string[]
  cmdline: string
  /** Milliseconds. */
  bootTimeout: number
  idleLimits: IdleLimits
  /** Keep the memory of a guest that ends badly. */
  core: boolean
  onConsoleLine?: BootOptions['onConsoleLine'] | undefined
  allowedSplats: readonly AllowedSplat[]
}

let guests = 0

/** `accelerator` of the host, which decides how much of the kernel log the console can afford, and how long a boot may take. */
export function checkOptions(options: BootOptions, accelerator: string): CheckedOptions {
  const name = options.name ?? `guest-${++guests}`
  const refuse = (detail: string, hint: string): never => {
    throw new KvitestError(`boot ${name}`, detail, { code: 'EINVAL', hint, infra: false })
  }
  const cpus = options.cpus ?? 1
  if (!Number.isInteger(cpus) || cpus < 1 || cpus > maxCpus) {
    refuse(`cpus: ${cpus}`, `give a whole number from 1 to ${maxCpus}`)
  }
  const memory = bytesOf(options.memory ?? '256M')
  if (memory === undefined || memory % 4096 !== 0)
    refuse(`memory: ${options.memory}`, 'give bytes, or a size such as 256M or 2G')
  if (memory! < minMemory || memory! > maxMemory) {
    refuse(`memory: ${options.memory}`, 'a Linux guest takes 64M to 8G')
  }
  const isSlow = slowHosts.includes(accelerator)
  // Guests that share the cores of an emulated host, all booting, get on for minutes; one that does not is found by its silence.
  const bootTimeout = options.bootTimeout ?? (isSlow ? 300_000 : 60_000)
  if (!(bootTimeout > 0)) refuse(`bootTimeout: ${bootTimeout}`, 'give milliseconds')
  const limits = idleLimitsOf(options.idleLimit)
  if (typeof limits === 'string') refuse(limits, 'give milliseconds, or 0 for none')
  const loglevel = options.loglevel ?? (isSlow ? 5 : 7)
  if (!Number.isInteger(loglevel) || loglevel < 0 || loglevel > 15) {
    refuse(`loglevel: ${loglevel}`, 'give a whole number from 0 to 15')
  }

  const devices = placeDisks(options.devices ?? [])
  const ports = devices.flatMap((device) => (device.type === 'virtio-console' ? device.ports : []))
  const names = ports.map((port) => port.name)
  for (const [index, port] of names.entries()) {
    if (port === '' || port.includes('\0')) refuse(`port name ${JSON.stringify(port)}`, 'name every port')
    const taken = port === agentPort || port === 'serial' || port === 'debug' || names.indexOf(port) !== index
    if (taken) refuse(`port ${port} is there already`, 'give every port a name of its own')
  }
  const disks = disksOf(devices).map((disk) => disk.name)
  for (const [index, disk] of disks.entries()) {
    if (!disk || disks.indexOf(disk) !== index) {
      refuse(`disk name ${JSON.stringify(disk)}`, 'give every virtio-blk device a name of its own')
    }
  }
  const awaited = ports
    .filter(({ name, console }) => !console && !/[,\s"]/.test(name))
    .map(({ name }) => name)
  const cmdline = [
    'console=ttyS0',
    `loglevel=${loglevel}`,
    // Splats are told from other text on the console by their time stamp.
    'printk.time=1',
    // A panic ends the machine instead of halting it.
    'panic=-1',
    // A guest that hangs is asked where it is: by system requests on its serial line, or by an NMI that only our machine
    // raises, upon which it panics (docs/verdicts.md).
    'sysrq_always_enabled',
    'sysctl.kernel.panic_on_io_nmi=1',
    // The ciphers' self-tests are a third of an emulated boot (docs/performance.md).
    ...(isSlow ? ['cryptomgr.notests'] : []),
    ...(awaited.length > 0 ? [`kvitest.ports=${awaited.join(',')}`] : []),
    ...(options.cmdline ? [options.cmdline] : []),
  ].join(' ')
  if (cmdline.length > maxCmdline) {
    refuse(`a command line of ${cmdline.length} characters`, `the kernel takes ${maxCmdline}`)
  }
  if (/[\n\0]/.test(cmdline)) refuse('a command line with a line end in it', 'write it on one line')
  return {
    name,
    cpus,
    memory: memory!,
    devices: [{ type: 'virtio-console', ports: [{ name: agentPort }] }, ...devices],
    ports: names,
    cmdline,
    bootTimeout,
    idleLimits: limits as IdleLimits,
    core: options.core ?? false,
    onConsoleLine: options.onConsoleLine,
    allowedSplats: options.allowedSplats ?? [],
  }
}

/** The options of a fork: the machine is its checkpoint's, the rest its own. */
export function forkOptions(
  spec: MachineSpec,
  sidecar: GuestSidecar,
  options: Omit<GuestForkOptions, 'devices'>,
  accelerator: string,
): CheckedOptions {
  const { name, onConsoleLine, allowedSplats = [] } = options
  // The checks and defaults of a boot, where there is something to choose.
  const { bootTimeout, idleLimits, core } = checkOptions(
    { name: name ?? `${sidecar.name}-fork`, ...definedOf(options) },
    accelerator,
  )
  const ports = spec.devices.flatMap((device) => (device.type === 'virtio-console' ? device.ports : []))
  return {
    name: name ?? `${sidecar.name}-fork`,
    cpus: spec.cpus,
    memory: spec.memory,
    devices: spec.devices,
    ports: ports.map((port) => port.name).filter((port) => port !== agentPort),
    cmdline: sidecar.cmdline,
    bootTimeout,
    idleLimits,
    core,
    onConsoleLine,
    allowedSplats,
  }
}

function definedOf({
  bootTimeout,
  idleLimit,
  core,
}: Pick<GuestForkOptions, 'bootTimeout' | 'idleLimit' | 'core'>): BootOptions {
  return {
    ...(bootTimeout === undefined ? {} : { bootTimeout }),
    ...(idleLimit === undefined ? {} : { idleLimit }),
    ...(core === undefined ? {} : { core }),
  }
}
