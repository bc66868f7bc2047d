import type { GuestNeed } from '../budget/process-budget.ts'
import { type HostChoice, openMachineHost } from '../host/index.ts'
import type { KernelFacts } from '../host/kernel-facts.ts'
import type { CachedFork, HostInfo, MachineHost, MakerPlace } from '../host/machine-host.ts'
import { RawKvm } from '../host/raw/kvm.ts'
import { bootImage } from '../image/boot-image.ts'
import { type GuestPackages, guestPackages, packagesModules } from '../image/guest-packages.ts'
import { fileHash } from '../image/hash.ts'
import { buildInitramfs, modulesFor } from '../image/initramfs.ts'
import type { KernelInfo } from '../image/kernel.ts'
import { resolveKernel } from '../image/resolve.ts'
import type { MachineEvent, MachineSpec } from '../native/contract.ts'
import { KvitestError } from '../native/error.ts'
import { sortSplats } from '../verdict/judge.ts'
import { findSplats } from '../verdict/splat.ts'
import { admitByBudget } from './admission.ts'
import { type CheckedOptions, checkOptions } from './boot-options.ts'
import { restoreCheckpoint } from './checkpoint.ts'
import { type BootHashes, checkpointKey } from './checkpoint-key.ts'
import { followConsole } from './console-follow.ts'
import { hashDisks, withPackages } from './disk.ts'
import { GuestError } from './error.ts'
import { type GuestPlace, LinuxGuest } from './guest.ts'
import { siblingSymbols } from './sibling-symbols.ts'
import type { GuestSidecar } from './sidecar.ts'
import type { BootOptions, Guest, GuestCheckpoint, GuestForkOptions, Host } from './types.ts'

/** All that a boot needs, found and built. */
interface PreparedBoot {
  checked: CheckedOptions
  kernel: KernelInfo
  spec: MachineSpec
  hashes: BootHashes
}

interface BootFiles {
  kernel: KernelInfo
  initramfs: { path: string; hash: string }
  image: string
  packages: GuestPackages | undefined
}

async function findBootFiles(options: BootOptions, modules: string[]): Promise<BootFiles> {
  const kernel = await resolveKernel(options.kernel)
  const packages = await guestPackages(options.packages ?? [])
  const initramfs = await buildInitramfs({ kernel, modules, files: options.files ?? {}, packages })
  return { kernel, initramfs, image: await bootImage(kernel, options.entry), packages }
}

function needOf({ checked }: PreparedBoot): GuestNeed {
  return { guest: checked.name, cpus: checked.cpus, memory: checked.memory }
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
        followConsole(guest)
        guest.ended.then(() => this.#guests.delete(guest))
      },
      admit: admitByBudget,
    }
  }

  get info(): HostInfo {
    return this.#machines.info
  }

  async boot(options: BootOptions = {}): Promise<Guest> {
    const prepared = await this.#prepare(options)
    return await this.#place.admit(needOf(prepared), () => this.#boot(prepared, this.#machines))
  }

  async fork(options: BootOptions & Pick<GuestForkOptions, 'clock'> = {}): Promise<Guest> {
    const requested = performance.now()
    const prepared = await this.#prepare(options)
    return await this.#place.admit(needOf(prepared), (waited) =>
      this.#fork(prepared, { requested: requested + waited, clock: options.clock }),
    )
  }

  async #fork(prepared: PreparedBoot, fork: Parameters<LinuxGuest['start']>[1]): Promise<LinuxGuest> {
    const { checked, spec } = prepared
    const shared = spec.devices.find((device) => device.type === 'virtio-9p' && !device.readOnly)
    if (shared) {
      throw new KvitestError(`fork ${checked.name}`, 'its forks would share a virtio-9p that they write to', {
        code: 'EINVAL',
        hint: 'boot it (fork: none), or make the directory readOnly',
        infra: false,
      })
    }
    const ofHost = spec.devices.find((device) => device.type === 'virtio-scsi' && device.backend)
    if (ofHost) {
      throw new KvitestError(`fork ${checked.name}`, 'what its vhost-scsi holds is in no checkpoint', {
        code: 'ENOTSUP',
        hint: 'boot it (fork: none), or give it luns of its own',
        infra: false,
      })
    }
    const content = { ...spec, devices: await hashDisks(spec.devices) }
    const key = checkpointKey(content, prepared.hashes)
    // The machine comes with its sidecar, and may speak as soon as it is there.
    const early: MachineEvent[] = []
    let listener = (event: MachineEvent): void => void early.push(event)
    const { machine, sidecar }: CachedFork = await this.#machines.forkCached(
      {
        key,
        cpus: checked.cpus,
        memory: checked.memory,
        options: { name: checked.name },
        make: (place) => this.#makeCheckpoint(prepared, place),
      },
      (event) => listener(event),
    )
    const origin = { ...(sidecar as GuestSidecar), kernel: prepared.kernel }
    const symbols = () =>
      siblingSymbols(this.#machines, { key, spec, moment: origin.moment, beside: machine })
    const about = { spec, hashes: prepared.hashes }
    const guest = new LinuxGuest(checked, prepared.kernel, { ...this.#place, symbols }, about, origin)
    listener = (event) => guest.onEvent(event)
    for (const event of early) guest.onEvent(event)
    await guest.start(machine, fork)
    return guest
  }

  async restore(path: string): Promise<GuestCheckpoint> {
    return await restoreCheckpoint(this.#machines, path, (...fork) => LinuxGuest.fork(...fork, this.#place))
  }

  async kvm(): Promise<RawKvm> {
    return new RawKvm(await this.#machines.openRaw())
  }

  kernelFacts(): Promise<KernelFacts> {
    return this.#machines.kernelFacts()
  }

  async close(): Promise<void> {
    await Promise.all([...this.#guests].map((guest) => guest.stop({ force: true })))
    await this.#machines.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #prepare(options: BootOptions): Promise<PreparedBoot> {
    const asked = checkOptions(options, this.info.accelerator)
    const needed = options.packages?.length ? packagesModules : []
    const modules = [...modulesFor(asked.devices), ...needed, ...(options.modules ?? [])]
    const { kernel, initramfs, image, packages } = await this.#images(options, modules)
    const checked = packages ? withPackages(asked, packages.image) : asked
    const spec: MachineSpec = {
      name: checked.name,
      cpus: checked.cpus,
      memory: checked.memory,
      payload: { kind: 'linux', kernel: image, initramfs: initramfs.path, cmdline: checked.cmdline },
      devices: checked.devices,
    }
    const hashes = { kernel: await fileHash(image), initramfs: initramfs.hash }
    return { checked, kernel, spec, hashes }
  }

  /**
   * The files a guest boots from. To look at them all again takes longer than to fork: where none of them is a file
   * of the caller's, who may change it meanwhile, they are looked at once.
   */
  #images(options: BootOptions, modules: string[]): Promise<BootFiles> {
    const { kernel = '', entry, files = {}, packages = [] } = options
    const isOwn = [kernel, ...modules].some((name) => name.includes('/')) || Object.keys(files).length > 0
    if (isOwn) return findBootFiles(options, modules)
    const key = JSON.stringify([kernel, entry, modules, packages])
    let found = this.#bootFiles.get(key)
    if (!found) {
      found = findBootFiles(options, modules)
      this.#bootFiles.set(key, found)
      found.catch(() => this.#bootFiles.delete(key))
    }
    return found
  }

  async #boot(
    { checked, kernel, spec, hashes }: PreparedBoot,
    machines: Pick<MakerPlace, 'createMachine'>,
  ): Promise<LinuxGuest> {
    const guest = new LinuxGuest(checked, kernel, this.#place, { spec, hashes })
    const machine = await machines.createMachine(spec, (event) => guest.onEvent(event))
    await guest.start(machine)
    return guest
  }

  async #makeCheckpoint(prepared: PreparedBoot, place: MakerPlace): Promise<void> {
    const guest = await this.#boot(prepared, place)
    try {
      const { checkpoint, sidecar } = await guest.checkpoint()
      // What every test goes on from must be sound: a fork would be blamed for a splat of the boot.
      if (sortSplats(findSplats(sidecar.console), guest.allowances()).standing.length > 0) {
        await checkpoint.release()
        const end = await guest.stop({ force: true })
        const about = `boot ${guest.name} (${guest.kernel.name})`
        throw new GuestError(about, end, guest.console.text(), undefined, guest.record())
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
