import type { MachineHost } from '../host/machine-host.ts'
import { fileHash } from '../image/hash.ts'
import type { KernelInfo } from '../image/kernel.ts'
import type { MachineSpec } from '../native/contract.ts'
import { checkOptions } from './boot-options.ts'
import { LinuxGuest } from './guest.ts'
import type { BootOptions, Guest } from './types.ts'

/** A guest that boots from files as they are: no kernel is looked for, nothing is built. */
export interface BootFiles extends Pick<BootOptions, 'devices' | 'bootTimeout' | 'memory'> {
  kernel: Pick<KernelInfo, 'name' | 'release'>
  /** bzImage, or vmlinux with a PVH entry. */
  image: string
  /** With our agent as its /init. */
  initramfs: string
}

/** Boots it beside nothing else: it takes no lease of the machine's budget. */
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
  const place = {
    host: machines.info,
    track: () => {},
    admit: <G>(_: unknown, start: (waited: number) => G) => start(0),
  }
  const guest = new LinuxGuest(checked, { ...kernel, image, hash: hashes.kernel }, place, { spec, hashes })
  await guest.start(await machines.createMachine(spec, (event) => guest.onEvent(event)))
  return guest
}
