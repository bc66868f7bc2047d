/** Arguments that an ioctl takes, and what it says to ones in each of their flags and reserved fields. */
import {
  CAP,
  catalogue,
  constant,
  type Ioctl,
  type IoctlName,
  type IoctlOptions,
  KVM,
  offsetOf,
  type StructName,
  sizeOf,
  structOf,
  withFields,
} from 'kvitest'
import type { Bench, Outcome } from './bench.ts'
import { type KvmKind, kindsOf } from './fd-kinds.ts'

export interface Place {
  offset: number
  size: number
}

type Argument = Uint8Array | { bytes: Uint8Array; patches: NonNullable<IoctlOptions['patches']> }

export interface Base {
  ioctl: IoctlName
  /** What this argument is for, where an ioctl has several. */
  label?: string
  kind: KvmKind
  make: (b: Bench) => Argument | Promise<Argument>
  /** What it comes to as it is. Default 0. */
  outcome?: Outcome
  /** What it comes to with ones in a field; of flags with each bit set that is not `known`. */
  fields: Record<string, Outcome | { known: number; outcome: Outcome }>
  /** Of fields in structures behind the argument's own. */
  places?: Record<string, Place>
  /** Fields that api.rst says this of. */
  says?: string[]
  /** What it comes to on a software KVM. */
  software?: Outcome
}

/** Offset and size of each field of a structure. */
export function placesIn(struct: StructName): Record<string, Place> {
  const fields = Object.entries(catalogue.struct(struct).fields)
  return Object.fromEntries(fields.map(([name, [offset, size]]) => [name, { offset, size }]))
}

export const isReserved = {
  ioctl: (one: Ioctl) =>
    one.request !== undefined && one.struct?.startsWith('kvm_') === true && kindsOf(one).length > 0,
  field: (name: string) => /(^|\.)(flags|pad\d*|padding\d*|reserved\d*)$/.test(name),
}

/** Fields that the kernel writes and does not read, or that are other fields' places. */
export const notInput = new Set([
  'kvm_translation.pad',
  'kvm_dirty_log.padding2',
  'kvm_clear_dirty_log.padding2',
  'kvm_xen_hvm_attr.u.pad',
  'kvm_xen_hvm_attr.u.evtchn.flags',
  'kvm_xen_hvm_attr.u.evtchn.deliver.padding',
  'kvm_xen_vcpu_attr.u.pad',
  'kvm_memory_attributes.flags',
])

const refused = (known = 0) => ({ known, outcome: 'EINVAL' })
const unseen = (known = 0, outcome: Outcome = 0) => ({ known, outcome })

const cpuid = () => structOf('kvm_cpuid2', { nent: 256 }, 256 * sizeOf('kvm_cpuid_entry2'))
const msrs = (index: number) => {
  const bytes = structOf('kvm_msrs', { nmsrs: 1 }, sizeOf('kvm_msr_entry'))
  new DataView(bytes.buffer).setUint32(sizeOf('kvm_msrs'), index, true)
  return bytes
}
/** IA32_SYSENTER_CS: any value, no effect here. */
const sysenterCs = 0x174
const entryAt = (struct: StructName, inner: StructName, field: string): Place => {
  const [offset, size] = catalogue.field(inner, field)
  return { offset: sizeOf(struct) + offset, size }
}
const inMember = (struct: StructName, member: string, inner: StructName, field: string): Place => {
  const [offset, size] = catalogue.field(inner, field)
  return { offset: catalogue.field(struct, member)[0] + offset, size }
}
const got = (request: number, struct: StructName) => (b: Bench) => b.get(request, sizeOf(struct))
const gotFrom = (request: number, struct: StructName) => async (b: Bench) => {
  const answer = await b.kvm.ioctl(await b.vmFd(), request, structOf(struct))
  return answer.data!
}
const eventfd = async (b: Bench, bytes: Uint8Array, at: number) => ({
  bytes,
  patches: [{ at, fd: await b.kvm.eventfd() }],
})
const withLog = async (b: Bench, bytes: Uint8Array, at: number) => {
  await b.slot({ flags: constant('KVM_MEM_LOG_DIRTY_PAGES') })
  return { bytes, patches: [{ at, memory: await b.kvm.memory(4096) }] }
}

export const bases: Base[] = [
  ...(['KVM_GET_SUPPORTED_CPUID', 'KVM_GET_EMULATED_CPUID', 'KVM_GET_SUPPORTED_HV_CPUID'] as const).map(
    (ioctl): Base => ({ ioctl, kind: 'sys', make: cpuid, fields: { padding: 0 } }),
  ),
  {
    ioctl: 'KVM_SET_CPUID2',
    kind: 'vcpu',
    make: () => structOf('kvm_cpuid2', { nent: 1 }, sizeOf('kvm_cpuid_entry2')),
    fields: { padding: 0, 'entries[0].flags': unseen(), 'entries[0].padding': 0 },
    places: {
      'entries[0].flags': entryAt('kvm_cpuid2', 'kvm_cpuid_entry2', 'flags'),
      'entries[0].padding': entryAt('kvm_cpuid2', 'kvm_cpuid_entry2', 'padding'),
    },
  },
  { ioctl: 'KVM_GET_CPUID2', kind: 'vcpu', make: cpuid, fields: { padding: 0 } },
  {
    ioctl: 'KVM_SET_CPUID',
    kind: 'vcpu',
    make: () => structOf('kvm_cpuid', { nent: 1 }, sizeOf('kvm_cpuid_entry')),
    fields: { padding: 0, 'entries[0].padding': 0 },
    places: { 'entries[0].padding': entryAt('kvm_cpuid', 'kvm_cpuid_entry', 'padding') },
  },
  ...(['KVM_GET_MSRS', 'KVM_SET_MSRS'] as const).map(
    (ioctl): Base => ({
      ioctl,
      kind: 'vcpu',
      make: () => msrs(sysenterCs),
      outcome: 1,
      fields: { pad: 1, 'entries[0].reserved': 1 },
      places: { 'entries[0].reserved': entryAt('kvm_msrs', 'kvm_msr_entry', 'reserved') },
    }),
  ),
  {
    ioctl: 'KVM_GET_DIRTY_LOG',
    kind: 'vm',
    make: (b) => withLog(b, structOf('kvm_dirty_log'), offsetOf('kvm_dirty_log', 'dirty_bitmap')),
    fields: { padding1: 0 },
  },
  {
    ioctl: 'KVM_SET_USER_MEMORY_REGION',
    kind: 'vm',
    make: async (b) => ({
      bytes: structOf('kvm_userspace_memory_region', {
        slot: 2,
        guest_phys_addr: 0x10_0000,
        memory_size: 0x1000,
        flags: constant('KVM_MEM_READONLY'),
      }),
      patches: [{ at: offsetOf('kvm_userspace_memory_region', 'userspace_addr'), memory: await b.memory() }],
    }),
    fields: { flags: refused(constant('KVM_MEM_LOG_DIRTY_PAGES') | constant('KVM_MEM_READONLY')) },
  },
  {
    ioctl: 'KVM_SET_USER_MEMORY_REGION2',
    kind: 'vm',
    make: async (b) => ({
      bytes: structOf('kvm_userspace_memory_region2', {
        slot: 3,
        guest_phys_addr: 0x20_0000,
        memory_size: 0x1000,
        flags: constant('KVM_MEM_READONLY'),
      }),
      patches: [{ at: offsetOf('kvm_userspace_memory_region2', 'userspace_addr'), memory: await b.memory() }],
    }),
    fields: {
      flags: refused(constant('KVM_MEM_LOG_DIRTY_PAGES') | constant('KVM_MEM_READONLY')),
      pad1: 0,
      pad2: 0,
    },
  },
  {
    ioctl: 'KVM_GET_IRQCHIP',
    kind: 'vm',
    make: () => structOf('kvm_irqchip'),
    fields: { pad: 0 },
  },
  {
    ioctl: 'KVM_SET_IRQCHIP',
    kind: 'vm',
    make: gotFrom(KVM.GET_IRQCHIP, 'kvm_irqchip'),
    fields: { pad: 0 },
  },
  ...(['KVM_REGISTER_COALESCED_MMIO', 'KVM_UNREGISTER_COALESCED_MMIO'] as const).map(
    (ioctl): Base => ({
      ioctl,
      kind: 'vm',
      make: () => structOf('kvm_coalesced_mmio_zone', { addr: 0x8000, size: 1 }),
      // It is the same word as `pio`.
      fields: { pad: refused(1) },
    }),
  ),
  {
    ioctl: 'KVM_SET_GSI_ROUTING',
    kind: 'vm',
    make: () => {
      const bytes = structOf('kvm_irq_routing', { nr: 1 }, sizeOf('kvm_irq_routing_entry'))
      // Of type KVM_IRQ_ROUTING_IRQCHIP.
      new DataView(bytes.buffer).setUint32(
        sizeOf('kvm_irq_routing') + catalogue.field('kvm_irq_routing_entry', 'type')[0],
        1,
        true,
      )
      return bytes
    },
    fields: { flags: refused(), 'entries[0].flags': refused(), 'entries[0].pad': 0 },
    places: {
      'entries[0].flags': entryAt('kvm_irq_routing', 'kvm_irq_routing_entry', 'flags'),
      'entries[0].pad': entryAt('kvm_irq_routing', 'kvm_irq_routing_entry', 'pad'),
    },
  },
  {
    ioctl: 'KVM_REINJECT_CONTROL',
    kind: 'vm',
    make: () => structOf('kvm_reinject_control', { pit_reinject: 1 }),
    fields: { reserved: 0 },
  },
  {
    ioctl: 'KVM_IRQFD',
    kind: 'vm',
    make: (b) => eventfd(b, structOf('kvm_irqfd', { gsi: 4, flags: constant('KVM_IRQFD_FLAG_DEASSIGN') }), 0),
    fields: {
      flags: refused(constant('KVM_IRQFD_FLAG_DEASSIGN') | constant('KVM_IRQFD_FLAG_RESAMPLE')),
      pad: 0,
      resamplefd: 0,
    },
  },
  {
    ioctl: 'KVM_CREATE_PIT2',
    kind: 'vm',
    make: () => structOf('kvm_pit_config'),
    outcome: 'EEXIST',
    fields: { flags: unseen(0, 'EEXIST'), pad: 'EEXIST' },
  },
  {
    ioctl: 'KVM_IOEVENTFD',
    kind: 'vm',
    make: (b) =>
      eventfd(
        b,
        structOf('kvm_ioeventfd', { addr: 0x10, len: 1, flags: constant('KVM_IOEVENTFD_FLAG_DEASSIGN') }),
        offsetOf('kvm_ioeventfd', 'fd'),
      ),
    outcome: 'ENOENT',
    // To take one away no flag is looked at that does not say where it is.
    fields: { flags: unseen(0xf, 'ENOENT'), pad: 'ENOENT' },
  },
  {
    ioctl: 'KVM_IOEVENTFD',
    label: 'to assign',
    kind: 'vm',
    // Each time at another place: one that is taken is EEXIST.
    make: (b) =>
      eventfd(
        b,
        structOf('kvm_ioeventfd', { addr: 0x1_0000 + 8 * b.kvm.nextHandle(), len: 4 }),
        offsetOf('kvm_ioeventfd', 'fd'),
      ),
    // Bit 4 is in the header's enumeration only: kvm_ioeventfd_flag_nr_fast_mmio.
    fields: { flags: refused(0x1f) },
  },
  {
    ioctl: 'KVM_XEN_HVM_CONFIG',
    kind: 'vm',
    make: () => structOf('kvm_xen_hvm_config'),
    fields: {
      flags: refused(
        constant('KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL') |
          constant('KVM_XEN_HVM_CONFIG_EVTCHN_SEND') |
          constant('KVM_XEN_HVM_CONFIG_PVCLOCK_TSC_UNSTABLE'),
      ),
      pad2: 0,
    },
  },
  {
    ioctl: 'KVM_SET_CLOCK',
    kind: 'vm',
    make: gotFrom(KVM.GET_CLOCK, 'kvm_clock_data'),
    fields: { flags: refused(0xe), pad0: 0, pad: 0 },
  },
  {
    ioctl: 'KVM_SET_PIT2',
    kind: 'vm',
    make: gotFrom(KVM.GET_PIT2, 'kvm_pit_state2'),
    fields: { flags: unseen(3), reserved: 0 },
  },
  {
    ioctl: 'KVM_SIGNAL_MSI',
    kind: 'vm',
    make: () => structOf('kvm_msi', { address_lo: 0xfee0_0000, data: 0x20 }),
    fields: { flags: refused(constant('KVM_MSI_VALID_DEVID')), pad: 0, devid: 0 },
  },
  {
    ioctl: 'KVM_SET_PMU_EVENT_FILTER',
    kind: 'vm',
    make: () => structOf('kvm_pmu_event_filter'),
    fields: { flags: refused(1), pad: 0 },
  },
  {
    ioctl: 'KVM_CREATE_DEVICE',
    kind: 'vm',
    make: () =>
      structOf('kvm_create_device', {
        type: constant('KVM_DEV_TYPE_VFIO'),
        flags: constant('KVM_CREATE_DEVICE_TEST'),
      }),
    fields: { flags: unseen(constant('KVM_CREATE_DEVICE_TEST')) },
  },
  {
    ioctl: 'KVM_HAS_DEVICE_ATTR',
    kind: 'vcpu',
    make: () => structOf('kvm_device_attr', { group: constant('KVM_VCPU_TSC_CTRL') }),
    fields: { flags: unseen() },
  },
  {
    ioctl: 'KVM_GET_DEVICE_ATTR',
    kind: 'vcpu',
    make: async (b) => ({
      bytes: structOf('kvm_device_attr', { group: constant('KVM_VCPU_TSC_CTRL') }),
      patches: [{ at: offsetOf('kvm_device_attr', 'addr'), memory: await b.kvm.memory(4096) }],
    }),
    fields: { flags: unseen() },
  },
  {
    ioctl: 'KVM_SET_DEVICE_ATTR',
    kind: 'vcpu',
    make: async (b) => ({
      bytes: structOf('kvm_device_attr', { group: constant('KVM_VCPU_TSC_CTRL') }),
      patches: [{ at: offsetOf('kvm_device_attr', 'addr'), memory: await b.kvm.memory(4096) }],
    }),
    fields: { flags: unseen() },
  },
  {
    ioctl: 'KVM_HYPERV_EVENTFD',
    says: ['flags'],
    kind: 'vm',
    make: () =>
      structOf('kvm_hyperv_eventfd', { conn_id: 1, flags: constant('KVM_HYPERV_EVENTFD_DEASSIGN') }),
    outcome: 'ENOENT',
    fields: { flags: { known: 1, outcome: 'EINVAL' }, padding: 'ENOENT' },
  },
  {
    ioctl: 'KVM_X86_SET_MSR_FILTER',
    kind: 'vm',
    make: async (b) => {
      const put = (bytes: Uint8Array, field: string, value: number) => {
        const { offset } = inMember('kvm_msr_filter', 'ranges', 'kvm_msr_filter_range', field)
        new DataView(bytes.buffer).setUint32(offset, value, true)
      }
      const bytes = structOf('kvm_msr_filter')
      put(bytes, 'flags', 1)
      put(bytes, 'nmsrs', 8)
      put(bytes, 'base', 0x1000)
      const at = inMember('kvm_msr_filter', 'ranges', 'kvm_msr_filter_range', 'bitmap').offset
      return { bytes, patches: [{ at, memory: await b.kvm.memory(4096) }] }
    },
    fields: { flags: refused(1), 'ranges[0].flags': refused(3) },
    places: { 'ranges[0].flags': inMember('kvm_msr_filter', 'ranges', 'kvm_msr_filter_range', 'flags') },
  },
  ...(['KVM_XEN_HVM_GET_ATTR', 'KVM_XEN_HVM_SET_ATTR'] as const).map(
    (ioctl): Base => ({
      ioctl,
      kind: 'vm',
      make: () => structOf('kvm_xen_hvm_attr'),
      fields: { pad: 0 },
    }),
  ),
  ...(['KVM_XEN_VCPU_GET_ATTR', 'KVM_XEN_VCPU_SET_ATTR'] as const).map(
    (ioctl): Base => ({
      ioctl,
      kind: 'vcpu',
      make: () =>
        structOf('kvm_xen_vcpu_attr', {
          type: constant('KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO'),
          'u.gpa': 0xffff_ffff_ffff_ffffn,
        }),
      fields: { pad: 0 },
    }),
  ),
  {
    ioctl: 'KVM_CREATE_GUEST_MEMFD',
    kind: 'vm',
    make: () => structOf('kvm_create_guest_memfd', { size: 0x1000 }),
    fields: { flags: refused(3), reserved: 0 },
  },
  {
    ioctl: 'KVM_SET_FPU',
    kind: 'vcpu',
    make: got(KVM.GET_FPU, 'kvm_fpu'),
    fields: { pad1: 0, pad2: 0 },
  },
  {
    ioctl: 'KVM_TPR_ACCESS_REPORTING',
    kind: 'vcpu',
    make: () => structOf('kvm_tpr_access_ctl'),
    fields: { flags: refused(), reserved: 0 },
  },
  {
    ioctl: 'KVM_SET_GUEST_DEBUG',
    kind: 'vcpu',
    make: () => structOf('kvm_guest_debug'),
    fields: { pad: 0 },
  },
  {
    ioctl: 'KVM_X86_SET_MCE',
    kind: 'vcpu',
    make: () => structOf('kvm_x86_mce', { status: 1n << 63n }),
    fields: { pad1: 0, pad2: 0 },
  },
  {
    ioctl: 'KVM_SET_VCPU_EVENTS',
    kind: 'vcpu',
    make: async (b) =>
      withFields(await b.get(KVM.GET_VCPU_EVENTS, sizeOf('kvm_vcpu_events')), 'kvm_vcpu_events', {
        flags: 0,
      }),
    // Those of payload and triple fault are unknown until their capability is enabled.
    fields: { flags: refused(0xf), 'nmi.pad': 0, reserved: 0 },
  },
  {
    ioctl: 'KVM_SET_DEBUGREGS',
    kind: 'vcpu',
    make: got(KVM.GET_DEBUGREGS, 'kvm_debugregs'),
    fields: { flags: refused(), reserved: 0 },
  },
  {
    ioctl: 'KVM_ENABLE_CAP',
    kind: 'vm',
    says: ['flags'],
    make: () => structOf('kvm_enable_cap', { cap: CAP.DISABLE_QUIRKS }),
    fields: { flags: refused(), pad: 0 },
  },
  {
    ioctl: 'KVM_ENABLE_CAP',
    kind: 'vcpu',
    says: ['flags'],
    make: () => structOf('kvm_enable_cap', { cap: CAP.ENFORCE_PV_FEATURE_CPUID }),
    fields: { flags: refused(), pad: 0 },
  },
  {
    ioctl: 'KVM_SET_XCRS',
    kind: 'vcpu',
    make: got(KVM.GET_XCRS, 'kvm_xcrs'),
    fields: { flags: refused(), padding: 0 },
  },
  {
    ioctl: 'KVM_SET_NESTED_STATE',
    kind: 'vcpu',
    make: () => structOf('kvm_nested_state', { flags: 0x100, format: 1, size: 128 }),
    fields: { flags: refused(0x107), 'hdr.pad': 0 },
  },
  {
    ioctl: 'KVM_SET_SREGS',
    kind: 'vcpu',
    make: got(KVM.GET_SREGS, 'kvm_sregs'),
    fields: { 'cs.padding': 0, 'gdt.padding': 0 },
    places: {
      'cs.padding': inMember('kvm_sregs', 'cs', 'kvm_segment', 'padding'),
      'gdt.padding': inMember('kvm_sregs', 'gdt', 'kvm_dtable', 'padding'),
    },
  },
  {
    ioctl: 'KVM_SET_SREGS2',
    kind: 'vcpu',
    make: got(KVM.GET_SREGS2, 'kvm_sregs2'),
    fields: { flags: refused(1) },
  },
  {
    ioctl: 'KVM_PRE_FAULT_MEMORY',
    says: ['flags'],
    kind: 'vcpu',
    make: async (b) => {
      await b.slot({})
      return structOf('kvm_pre_fault_memory', { gpa: 0, size: 0x1000 })
    },
    fields: { flags: refused(), padding: 0 },
    software: 'EOPNOTSUPP',
  },
]
