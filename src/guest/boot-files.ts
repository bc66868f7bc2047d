import type { MachineHost } from '../host/machine-host.ts'
import { fileHash } from '../image/hash.ts'
import type { KernelInfo } from '../image/kernel.ts'
import type { MachineSpec } from '../native/contract.ts'
import { checkOptions } from './boot-options.ts'
import { restoreCheckpoint } from './checkpoint.ts'
import { type GuestPlace, LinuxGuest } from './guest.ts'
import type { BootOptions, Guest, GuestCheckpoint } from './types.ts'

/** A guest that boots from files as they are: no kernel is looked for, nothing is built. */
export interface BootFiles extends Pick<BootOptions, 'devices' | 'bootTimeout' | 'memory'> {
  kernel: Pick<KernelInfo, 'name' | 'release'>
  /** bzImage, or vmlinux with a PVH entry. */
  image: string
  /** With our agent as its /init. */
  initramfs: string
}

/** Beside nothing else: a guest takes no lease of the machine's budget. */
function alone(machines: MachineHost): GuestPlace {
  return { host: machines.info, track: () => {}, admit: (_, start) => start(0) }
}

/** A file that GuestCheckpoint.save() wrote, as Host.restore() has it. */
export function restoreFile(machines: MachineHost, path: string): Promise<GuestCheckpoint> {
  return restoreCheckpoint(machines, path, (...fork) => LinuxGuest.fork(...fork, alone(machines)))
}

export async function bootFiles(machines: MachineHost, files: BootFiles): Promise<Guest> {
  const { kernel, image, initramfs, ...options } = files
  // Wherever it is: a console that is read by programs needs no more than warnings.
  const checked = checkOptions(options, 'tcg')
  const spec: MachineSpec = {
    name: checked.name,
    cpus: checked.cpus,
    memory: checked.memory,
    payload: { kind: 'linux', kernel: image, initramfs, cmdline: checked.cmdline },
    devices: checked.devices,
  }
  const hashes = { kernel: await fileHash(image), initramfs: await fileHash(initramfs) }
  const about = { ...kernel, image, hash: hashes.kernel }
  const guest = new LinuxGuest(checked, about, alone(machines), { spec, hashes })
  await guest.start(await machines.createMachine(spec, (event) => guest.onEvent(event)))
  return guest
}
