import { type HostChoice, openMachineHost } from '../host/index.ts'
import type { HostInfo, MachineHost } from '../host/machine-host.ts'
import { bootImage } from '../image/boot-image.ts'
import { buildInitramfs, modulesFor } from '../image/initramfs.ts'
import { resolveKernel } from '../image/resolve.ts'
import type { MachineSpec } from '../native/contract.ts'
import { checkOptions } from './boot-options.ts'
import { LinuxGuest } from './guest.ts'
import type { BootOptions, Guest, Host } from './types.ts'

/** A MachineHost that boots Linux guests with our agent in them. */
class GuestHost implements Host {
  readonly #machines: MachineHost
  readonly #guests = new Set<LinuxGuest>()

  constructor(machines: MachineHost) {
    this.#machines = machines
  }

  get info(): HostInfo {
    return this.#machines.info
  }

  async boot(options: BootOptions = {}): Promise<Guest> {
    const checked = checkOptions(options, this.info.accelerator)
    const kernel = await resolveKernel(options.kernel)
    const modules = [...modulesFor(checked.devices), ...(options.modules ?? [])]
    const files = options.files ?? {}
    const initramfs = await buildInitramfs({ kernel, modules, files })
    const image = await bootImage(kernel, options.entry)
    const spec: MachineSpec = {
      name: checked.name,
      cpus: checked.cpus,
      memory: checked.memory,
      payload: { kind: 'linux', kernel: image, initramfs: initramfs.path, cmdline: checked.cmdline },
      devices: checked.devices,
    }
    const guest = new LinuxGuest(checked, kernel, this.info)
    const machine = await this.#machines.createMachine(spec, (event) => guest.onEvent(event))
    this.#guests.add(guest)
    guest.ended.then(() => this.#guests.delete(guest))
    await guest.start(machine)
    return guest
  }

  async close(): Promise<void> {
    await Promise.all([...this.#guests].map((guest) => guest.stop({ force: true })))
    await this.#machines.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

/** Opens a place where guests boot: `auto` (default, or KVITEST_HOST), `local`, `lab` or `lab:KERNEL`. */
export async function openHost(name?: string): Promise<Host> {
  // openMachineHost itself refuses a name that is none.
  return new GuestHost(await openMachineHost(name as HostChoice | undefined))
}
