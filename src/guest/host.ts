import { type HostChoice, openMachineHost } from '../host/index.ts'
import type { CachedFork, HostInfo, MachineHost, MakerPlace } from '../host/machine-host.ts'
import { RawKvm } from '../host/raw/kvm.ts'
import { bootImage } from '../image/boot-image.ts'
import { fileHash } from '../image/hash.ts'
import { buildInitramfs, modulesFor } from '../image/initramfs.ts'
import type { KernelInfo } from '../image/kernel.ts'
import { resolveKernel } from '../image/resolve.ts'
import type { MachineEvent, MachineSpec } from '../native/contract.ts'
import { findSplats } from '../verdict/splat.ts'
import { type CheckedOptions, checkOptions } from './boot-options.ts'
import { restoreCheckpoint } from './checkpoint.ts'
import { checkpointKey } from './checkpoint-key.ts'
import { GuestError } from './error.ts'
import { type GuestPlace, LinuxGuest } from './guest.ts'
import type { GuestSidecar } from './sidecar.ts'
import type { BootOptions, Guest, GuestCheckpoint, GuestForkOptions, Host } from './types.ts'

/** All that a boot needs, found and built. */
interface PreparedBoot {
  checked: CheckedOptions
  kernel: KernelInfo
  spec: MachineSpec
  initramfsHash: string
}

interface BootFiles {
  kernel: KernelInfo
  initramfs: { path: string; hash: string }
  image: string
}

async function findBootFiles(options: BootOptions, modules: string[]): Promise<BootFiles> {
  const kernel = await resolveKernel(options.kernel)
  const initramfs = await buildInitramfs({ kernel, modules, files: options.files ?? {} })
  return { kernel, initramfs, image: await bootImage(kernel, options.entry) }
}

/** A MachineHost that boots Linux guests with our agent in them. */
class GuestHost implements Host {
  readonly #machines: MachineHost
  readonly #guests = new Set<LinuxGuest>()
  readonly #place: GuestPlace
  readonly #bootFiles = new Map<string, Promise<BootFiles>>()

  constructor(machines: MachineHost) {
    this.#machines = machines
    this.#place = {
      host: machines.info,
      track: (guest) => {
        this.#guests.add(guest)
        guest.ended.then(() => this.#guests.delete(guest))
      },
    }
  }

  get info(): HostInfo {
    return this.#machines.info
  }

  async boot(options: BootOptions = {}): Promise<Guest> {
    return await this.#boot(await this.#prepare(options), this.#machines)
  }

  async fork(options: BootOptions & Pick<GuestForkOptions, 'clock'> = {}): Promise<Guest> {
    const requested = performance.now()
    const prepared = await this.#prepare(options)
    const { checked, spec } = prepared
    const { kind: _, ...payload } = spec.payload as Extract<MachineSpec['payload'], { kind: 'linux' }>
    const kernel = await fileHash(payload.kernel)
    // The machine comes with its sidecar, and may speak as soon as it is there.
    const early: MachineEvent[] = []
    let listener = (event: MachineEvent): void => void early.push(event)
    const { machine, sidecar }: CachedFork = await this.#machines.forkCached(
      {
        key: checkpointKey(spec, { kernel, initramfs: prepared.initramfsHash }),
        cpus: checked.cpus,
        memory: checked.memory,
        options: { name: checked.name },
        make: (place) => this.#makeCheckpoint(prepared, place),
      },
      (event) => listener(event),
    )
    const origin = { ...(sidecar as GuestSidecar), kernel: prepared.kernel }
    const guest = LinuxGuest.resume(spec, origin, checked, this.#place)
    listener = (event) => guest.onEvent(event)
    for (const event of early) guest.onEvent(event)
    await guest.start(machine, { requested, clock: options.clock })
    return guest
  }

  async restore(path: string): Promise<GuestCheckpoint> {
    return await restoreCheckpoint(this.#machines, path, (...fork) => LinuxGuest.fork(...fork, this.#place))
  }

  async kvm(): Promise<RawKvm> {
    return new RawKvm(await this.#machines.openRaw())
  }

  async close(): Promise<void> {
    await Promise.all([...this.#guests].map((guest) => guest.stop({ force: true })))
    await this.#machines.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #prepare(options: BootOptions): Promise<PreparedBoot> {
    const checked = checkOptions(options, this.info.accelerator)
    const modules = [...modulesFor(checked.devices), ...(options.modules ?? [])]
    const { kernel, initramfs, image } = await this.#images(options, modules)
    const spec: MachineSpec = {
      name: checked.name,
      cpus: checked.cpus,
      memory: checked.memory,
      payload: { kind: 'linux', kernel: image, initramfs: initramfs.path, cmdline: checked.cmdline },
      devices: checked.devices,
    }
    return { checked, kernel, spec, initramfsHash: initramfs.hash }
  }

  /**
   * The files a guest boots from. To look at them all again takes longer than to fork: where none of them is a file
   * of the caller's, who may change it meanwhile, they are looked at once.
   */
  #images(options: BootOptions, modules: string[]): Promise<BootFiles> {
    const { kernel = '', entry, files = {} } = options
    const isOwn = [kernel, ...modules].some((name) => name.includes('/')) || Object.keys(files).length > 0
    if (isOwn) return findBootFiles(options, modules)
    const key = JSON.stringify([kernel, entry, modules])
    let found = this.#bootFiles.get(key)
    if (!found) {
      found = findBootFiles(options, modules)
      this.#bootFiles.set(key, found)
      found.catch(() => this.#bootFiles.delete(key))
    }
    return found
  }

  async #boot(
    { checked, kernel, spec }: PreparedBoot,
    machines: Pick<MakerPlace, 'createMachine'>,
  ): Promise<LinuxGuest> {
    const guest = new LinuxGuest(checked, kernel, this.#place)
    const machine = await machines.createMachine(spec, (event) => guest.onEvent(event))
    await guest.start(machine)
    return guest
  }

  async #makeCheckpoint(prepared: PreparedBoot, place: MakerPlace): Promise<void> {
    const guest = await this.#boot(prepared, place)
    try {
      const { checkpoint, sidecar } = await guest.checkpoint()
      // What every test goes on from must be sound: a fork would be blamed for a splat of the boot.
      if (findSplats(sidecar.console).length > 0) {
        await checkpoint.release()
        const end = await guest.stop({ force: true })
        throw new GuestError(`boot ${guest.name} (${guest.kernel.name})`, end, guest.console.text())
      }
      await place.keep(checkpoint, sidecar)
    } finally {
      await guest.stop({ force: true })
    }
  }
}

/** Opens a place where guests boot: `auto` (default, or KVITEST_HOST), `local`, `lab` or `lab:KERNEL`. */
export async function openHost(name?: string): Promise<Host> {
  // openMachineHost itself refuses a name that is none.
  return new GuestHost(await openMachineHost(name as HostChoice | undefined))
}
