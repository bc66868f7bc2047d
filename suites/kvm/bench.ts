import {
  constant,
  type FieldValues,
  fieldOf,
  type GuestCode,
  guestCode,
  type IoctlOptions,
  ioctlCall,
  KVM,
  offsetOf,
  type RawAnswer,
  RawFd,
  RawKvm,
  type RawMemory,
  type RawVcpu,
  type RunAnswer,
  sizeOf,
  structOf,
  withFields,
} from 'kvitest'
import type { KvmKind } from './fd-kinds.ts'
import { Recorder } from './record.ts'
import { pack } from './struct.ts'

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

export interface GuestOptions {
  irqchip?: boolean
  /** General registers that do not begin as zero. */
  regs?: FieldValues<'kvm_regs'>
}

/** Fields of segments, and of the structure itself. */
export interface SregsChange {
  fields?: FieldValues<'kvm_sregs'>
  cs?: FieldValues<'kvm_segment'>
  ds?: FieldValues<'kvm_segment'>
  es?: FieldValues<'kvm_segment'>
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
  async guest(name: string, options: GuestOptions = {}): Promise<RawVcpu> {
    const code: GuestCode = await guestCode(name)
    if (options.irqchip) await this.vm(KVM.CREATE_IRQCHIP)
    const vcpu = await this.vcpuOf()
    await (await this.memory()).write(code.entry, code.bytes)
    await this.slot({ bytes: 0x8000 })
    await this.setSregs({ cs: { base: 0, selector: 0 } })
    await this.vcpu(KVM.SET_REGS, structOf('kvm_regs', { rip: code.entry, rflags: 2, ...options.regs }))
    return vcpu
  }

  /** Special registers as they are but for these. */
  async setSregs({ fields = {}, ...segments }: SregsChange): Promise<Outcome> {
    let sregs = withFields(await this.get(KVM.GET_SREGS, sizeOf('kvm_sregs')), 'kvm_sregs', fields)
    for (const [segment, values] of Object.entries(segments)) {
      const at = offsetOf('kvm_sregs', segment as 'cs')
      const bytes = sregs.slice(at, at + sizeOf('kvm_segment'))
      sregs = withFields(sregs, 'kvm_sregs', { [segment]: withFields(bytes, 'kvm_segment', values) })
    }
    return this.vcpu(KVM.SET_SREGS, sregs)
  }

  /** Entries of KVM_GET_SUPPORTED_CPUID. */
  async supportedCpuid(): Promise<Uint8Array[]> {
    const [head, size] = [sizeOf('kvm_cpuid2'), sizeOf('kvm_cpuid_entry2')]
    const table = structOf('kvm_cpuid2', { nent: 256 }, 256 * size)
    const { data } = await this.kvm.ioctl(this.system, KVM.GET_SUPPORTED_CPUID, table)
    const count = Number(fieldOf(data!, 'kvm_cpuid2', 'nent'))
    return Array.from({ length: count }, (_, i) => data!.slice(head + i * size, head + (i + 1) * size))
  }

  setCpuid(entries: Uint8Array[]): Promise<Outcome> {
    const bytes = entries.map((entry) => ['bytes', entry] as ['bytes', Uint8Array])
    return this.vcpu(KVM.SET_CPUID2, pack(['u32', entries.length], ['u32', 0], ...bytes))
  }

  /** Two tables from 0x2000 on map the first 2 MiB, and the vCPU is in long mode with them. */
  async longMode(cs: FieldValues<'kvm_segment'> = {}): Promise<Outcome> {
    const memory = await this.memory()
    for (const [at, entry] of [
      [0x2000, 0x3003],
      [0x3000, 0x4003],
      [0x4000, 0x83],
    ] as const) {
      await memory.write(at, pack(['u64', entry]))
    }
    return this.setSregs({
      fields: { cr3: 0x2000, cr4: 0x20, cr0: 0x8000_0001, efer: 0x500 },
      cs: { base: 0, limit: 0xffff_ffff, selector: 8, type: 11, present: 1, s: 1, l: 1, db: 0, g: 1, ...cs },
    })
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
