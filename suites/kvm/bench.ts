import {
  constant,
  type GuestCode,
  guestCode,
  type IoctlOptions,
  ioctlCall,
  KVM,
  type RawAnswer,
  RawFd,
  RawKvm,
  type RawMemory,
  type RawVcpu,
  type RunAnswer,
  structOf,
} from 'kvitest'
import type { KvmKind } from './fd-kinds.ts'
import { Recorder } from './record.ts'
import { changed, pack } from './struct.ts'

/** What a system call came to: the errno's name, `hung`, or the value. */
export type Outcome = string | number

export function outcomeOf(answer: RawAnswer): Outcome {
  if (answer.hung) return 'hung'
  if (answer.expired) return 'expired'
  return answer.errno ?? answer.value
}

/** As outcomeOf; a run that returned 0 is its exit: `io`, `mmio`, `hlt`... */
export function exitOf(answer: RunAnswer): Outcome {
  const outcome = outcomeOf(answer)
  return outcome === 0 && answer.area ? answer.area.exit : outcome
}

type Argument = Parameters<RawKvm['ioctl']>[2]

export interface Memslot {
  slot?: number
  flags?: number
  /** Guest-physical. */
  at?: number | bigint
  bytes?: number | bigint
  memory?: RawMemory
  offset?: number
}

/** KVM_SET_USER_MEMORY_REGION and a vCPU of one VM, each made when first asked for. */
export class Bench {
  readonly kvm: RawKvm
  /** An fd of /dev/kvm. */
  readonly system: RawFd
  readonly areaSize: number
  readonly recorder: Recorder
  #vm: Promise<RawFd> | undefined
  #vcpu: Promise<RawVcpu> | undefined
  #memory: Promise<RawMemory> | undefined
  #fds: Promise<Record<KvmKind, RawFd>> | undefined

  private constructor(recorder: Recorder, kvm: RawKvm, system: RawFd, areaSize: number) {
    this.recorder = recorder
    this.kvm = kvm
    this.system = system
    this.areaSize = areaSize
  }

  /** On a session that nothing else uses; ended by `kvm.end()`. */
  static async open(session: RawKvm): Promise<Bench> {
    const recorder = new Recorder(session)
    const kvm = new RawKvm(recorder)
    const as = kvm.nextHandle()
    const system = new RawFd(as)
    const [, size] = await kvm.batch([
      { do: 'open', path: '/dev/kvm', as },
      ioctlCall(system, KVM.GET_VCPU_MMAP_SIZE),
    ])
    return new Bench(recorder, kvm, system, size!.value)
  }

  /** The VM that the checks below work on. */
  vmFd(): Promise<RawFd> {
    this.#vm ??= this.kvm.ioctl(this.system, KVM.CREATE_VM).then((answer) => answer.fd!)
    return this.#vm
  }

  /** Its vCPU 0. */
  vcpuOf(): Promise<RawVcpu> {
    this.#vcpu ??= this.addVcpu(0)
    return this.#vcpu
  }

  /** 64 KiB that slot 0 maps at 0x0 for a guest. */
  memory(): Promise<RawMemory> {
    this.#memory ??= this.kvm.memory(0x10000)
    return this.#memory
  }

  /** One fd of each kind: a VM with irqchip and PIT and its vCPU 0, a device of VFIO, the VM's statistics. */
  fds(): Promise<Record<KvmKind, RawFd>> {
    this.#fds ??= this.#makeFds()
    return this.#fds
  }

  async #makeFds(): Promise<Record<KvmKind, RawFd>> {
    await this.vm(KVM.CREATE_IRQCHIP)
    await this.vm(KVM.CREATE_PIT2, structOf('kvm_pit_config'))
    const vm = await this.vmFd()
    const vcpu = (await this.vcpuOf()).fd
    const type = constant('KVM_DEV_TYPE_VFIO')
    const device = await this.kvm.ioctl(vm, KVM.CREATE_DEVICE, structOf('kvm_create_device', { type }))
    const stats = await this.kvm.ioctl(vm, KVM.GET_STATS_FD)
    return { sys: this.system, vm, vcpu, dev: device.fd!, stats: stats.fd! }
  }

  async addVcpu(id: number): Promise<RawVcpu> {
    const { fd } = await this.kvm.ioctl(await this.vmFd(), KVM.CREATE_VCPU, id)
    const { memory } = await this.kvm.map(fd!, this.areaSize)
    return { fd: fd!, area: memory!, thread: `vcpu ${id}` }
  }

  async sys(request: number, argument?: Argument, options?: IoctlOptions): Promise<Outcome> {
    return outcomeOf(await this.kvm.ioctl(this.system, request, argument, options))
  }

  async vm(request: number, argument?: Argument, options?: IoctlOptions): Promise<Outcome> {
    return outcomeOf(await this.kvm.ioctl(await this.vmFd(), request, argument, options))
  }

  async vcpu(request: number, argument?: Argument, options?: IoctlOptions): Promise<Outcome> {
    return outcomeOf(await this.kvm.ioctl((await this.vcpuOf()).fd, request, argument, options))
  }

  /** The bytes that a KVM_GET_ of the vCPU gives. */
  async get(request: number, size: number): Promise<Uint8Array> {
    const answer = await this.kvm.ioctl((await this.vcpuOf()).fd, request, new Uint8Array(size))
    if (answer.errno) throw new Error(`request 0x${request.toString(16)}: ${answer.errno}`)
    return answer.data!
  }

  /** KVM_SET_USER_MEMORY_REGION (4.35). */
  async slot(options: Memslot): Promise<Outcome> {
    const { slot = 0, flags = 0, at = 0, bytes = 0x4000, offset = 0 } = options
    const memory = options.memory ?? (await this.memory())
    const region = pack(['u32', slot], ['u32', flags], ['u64', at], ['u64', bytes], ['u64', 0])
    return this.vm(KVM.SET_USER_MEMORY_REGION, region, { patches: [{ at: 24, memory, offset }] })
  }

  /** A vCPU that is about to run fixtures/guests/raw/NAME.S in real mode, with 32 KiB of memory from 0 on. */
  async guest(name: string, options: { irqchip?: boolean } = {}): Promise<RawVcpu> {
    const code: GuestCode = await guestCode(name)
    if (options.irqchip) await this.vm(KVM.CREATE_IRQCHIP)
    const vcpu = await this.vcpuOf()
    await (await this.memory()).write(code.entry, code.bytes)
    await this.slot({ bytes: 0x8000 })
    // struct kvm_sregs begins with cs: base, limit, selector.
    const sregs = await this.get(KVM.GET_SREGS, 312)
    await this.vcpu(KVM.SET_SREGS, changed(changed(sregs, 0, ['u64', 0]), 12, ['u16', 0]))
    await this.vcpu(KVM.SET_REGS, pack(['pad', 128], ['u64', code.entry], ['u64', 2]))
    return vcpu
  }

  async run(options?: Parameters<RawKvm['run']>[1]): Promise<RunAnswer> {
    return this.kvm.run(await this.vcpuOf(), options)
  }

  /** The exits of the next `count` runs. */
  async exits(count: number): Promise<Outcome[]> {
    const exits: Outcome[] = []
    for (let i = 0; i < count; i++) exits.push(exitOf(await this.run()))
    return exits
  }
}
