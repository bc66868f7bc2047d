import type { RawHandle } from '../../../native/raw-contract.ts'
import { catalogue } from '../../catalogue/catalogue.ts'
import {
  type Ask,
  type Entries,
  maskOf,
  outcomeOf,
  type ProbeSession,
  structure,
  type Value,
} from '../session.ts'

const bits = 32
const each = Array.from({ length: bits }, (_, bit) => bit)

/** A mask to find: one ask a bit. */
interface Mask {
  key: string
  asks: Ask[]
}

type Fields = Record<string, number | bigint>

/** Fields of an ioctl's structure whose bits are tried, with what else must be set. */
const simple: { on: 'vm' | 'vcpu'; ioctl: string; struct: string; field: string; rest?: Fields }[] = [
  { on: 'vm', ioctl: 'KVM_SET_CLOCK', struct: 'kvm_clock_data', field: 'flags' },
  { on: 'vm', ioctl: 'KVM_SET_PMU_EVENT_FILTER', struct: 'kvm_pmu_event_filter', field: 'flags' },
  { on: 'vm', ioctl: 'KVM_CREATE_DEVICE', struct: 'kvm_create_device', field: 'flags', rest: { type: 4 } },
  {
    on: 'vm',
    ioctl: 'KVM_SET_MEMORY_ATTRIBUTES',
    struct: 'kvm_memory_attributes',
    field: 'attributes',
    rest: { size: 4096 },
  },
  {
    on: 'vm',
    ioctl: 'KVM_CREATE_GUEST_MEMFD',
    struct: 'kvm_create_guest_memfd',
    field: 'flags',
    rest: { size: 4096 },
  },
  { on: 'vm', ioctl: 'KVM_SIGNAL_MSI', struct: 'kvm_msi', field: 'flags', rest: { address_lo: 0xfee0_0000 } },
  { on: 'vcpu', ioctl: 'KVM_SET_VCPU_EVENTS', struct: 'kvm_vcpu_events', field: 'flags' },
  { on: 'vcpu', ioctl: 'KVM_SET_GUEST_DEBUG', struct: 'kvm_guest_debug', field: 'control' },
  { on: 'vcpu', ioctl: 'KVM_SET_DEBUGREGS', struct: 'kvm_debugregs', field: 'flags' },
  { on: 'vcpu', ioctl: 'KVM_SET_SREGS2', struct: 'kvm_sregs2', field: 'flags' },
]

/** Capabilities whose first argument is a mask; on a VM without vCPUs, where some can only be enabled. */
const masked = [
  'KVM_CAP_DISABLE_QUIRKS',
  'KVM_CAP_DISABLE_QUIRKS2',
  'KVM_CAP_X86_DISABLE_EXITS',
  'KVM_CAP_X86_USER_SPACE_MSR',
  'KVM_CAP_X86_BUS_LOCK_EXIT',
  'KVM_CAP_X2APIC_API',
  'KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2',
  'KVM_CAP_EXIT_HYPERCALL',
  'KVM_CAP_PMU_CAPABILITY',
  'KVM_CAP_EXCEPTION_PAYLOAD',
  'KVM_CAP_MSR_PLATFORM_INFO',
  'KVM_CAP_X86_TRIPLE_FAULT_EVENT',
]

/** Asks with one bit of a field after the other. */
function eachBit(fd: RawHandle, ioctl: string, struct: string, field: string, rest: Fields = {}) {
  return each.map((bit) => ({
    fd,
    ioctl,
    argument: structure(struct, { ...rest, [field]: 1n << BigInt(bit) }),
  }))
}

/** Each flag with a slot of its own: those of a slot that is there may not be changed at will. */
function memslots(vm: RawHandle, ioctl: string, struct: string, memory: RawHandle): Mask {
  const patches = [{ at: catalogue.field(struct, 'userspace_addr')[0], memory }]
  const asks = each.map((bit) => {
    const place = { slot: bit, guest_phys_addr: (bit + 1) << 20, memory_size: 4096 }
    return { fd: vm, ioctl, argument: structure(struct, { ...place, flags: 1n << BigInt(bit) }), patches }
  })
  return { key: `flags.${ioctl}.flags`, asks }
}

/** On a VM with an irqchip. A flag that is known may still meet an eventfd in use: EBUSY, EEXIST or ENOENT. */
function eventfds(vm: RawHandle, one: RawHandle, other: RawHandle): Mask[] {
  const place = (struct: string, field: string) => catalogue.field(struct, field)[0]
  const both = [
    { at: place('kvm_irqfd', 'fd'), fd: one },
    { at: place('kvm_irqfd', 'resamplefd'), fd: other },
  ]
  const irqfds = eachBit(vm, 'KVM_IRQFD', 'kvm_irqfd', 'flags', { gsi: 5 })
  const ioeventfds = each.map((bit) => ({
    fd: vm,
    ioctl: 'KVM_IOEVENTFD',
    argument: structure('kvm_ioeventfd', { addr: 0x1000 + 8 * bit, len: 4, flags: 1n << BigInt(bit) }),
    patches: [{ at: place('kvm_ioeventfd', 'fd'), fd: one }],
  }))
  return [
    { key: 'flags.KVM_IRQFD.flags', asks: irqfds.map((ask) => ({ ...ask, patches: both })) },
    { key: 'flags.KVM_IOEVENTFD.flags', asks: ioeventfds },
  ]
}

/** A filter that denies by default must name something. */
function msrFilter(vm: RawHandle, bitmap: RawHandle): Mask {
  const [ranges] = catalogue.field('kvm_msr_filter', 'ranges')
  const range = structure('kvm_msr_filter_range', { flags: 3, nmsrs: 8, base: 0x174 })
  const at = ranges + catalogue.field('kvm_msr_filter_range', 'bitmap')[0]
  const asks = eachBit(vm, 'KVM_X86_SET_MSR_FILTER', 'kvm_msr_filter', 'flags').map((ask) => {
    ask.argument.set(range, ranges)
    return { ...ask, patches: [{ at, memory: bitmap }] }
  })
  return { key: 'flags.KVM_X86_SET_MSR_FILTER.flags', asks }
}

/** Bits that are not refused with EINVAL; the errno of an ioctl that is not there. */
function acceptedOf(outcomes: readonly Value[]): string {
  return outcomes.every((one) => one === 'ENOTTY')
    ? 'ENOTTY'
    : maskOf(bits, (bit) => outcomes[bit] !== 'EINVAL')
}

/** Bits that are accepted, found by trying each by itself: `flags.KVM_SET_USER_MEMORY_REGION.flags = 0x3`. */
export async function flags(session: ProbeSession): Promise<Entries> {
  const memory = await session.kvm.memory(4096)
  const [one, other] = [await session.kvm.eventfd(), await session.kvm.eventfd()]
  const entries = await session.withVcpu((vcpu, vm) =>
    session.withVm(async (bare) => {
      await session.ask([{ fd: bare, ioctl: 'KVM_CREATE_IRQCHIP' }])
      const masks: Mask[] = [
        memslots(vm, 'KVM_SET_USER_MEMORY_REGION', 'kvm_userspace_memory_region', memory.handle),
        memslots(bare, 'KVM_SET_USER_MEMORY_REGION2', 'kvm_userspace_memory_region2', memory.handle),
        msrFilter(vm, memory.handle),
        {
          key: 'flags.KVM_CREATE_VM.type',
          // A type is a number, not a bit.
          asks: each.map((type) => ({ fd: session.system, ioctl: 'KVM_CREATE_VM', argument: type })),
        },
        ...simple.map(({ on, ioctl, struct, field, rest }) => ({
          key: `flags.${ioctl}.${field}`,
          asks: eachBit(on === 'vm' ? vm : vcpu, ioctl, struct, field, rest),
        })),
        ...masked.map((name) => ({
          key: `flags.KVM_ENABLE_CAP.${name}`,
          asks: eachBit(bare, 'KVM_ENABLE_CAP', 'kvm_enable_cap', 'args', {
            cap: catalogue.capability(name).value,
          }),
        })),
        ...eventfds(bare, one.handle, other.handle),
      ]
      const outcomes = (await session.ask(masks.flatMap(({ asks }) => asks))).map(outcomeOf)
      return Object.fromEntries(
        masks.map(({ key }, i) => [key, acceptedOf(outcomes.slice(i * bits, (i + 1) * bits))]),
      )
    }),
  )
  await session.close(one.handle, other.handle)
  await memory.release()
  return entries
}
