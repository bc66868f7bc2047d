import { CAP, constant, fieldOf, KVM, offsetOf, sizeOf, structOf } from 'kvitest'
import { describe } from 'vitest'
import { exceptionsWhereAbsent } from './absences.ts'
import type { Bench, Outcome } from './bench.ts'
import { outcomeOf } from './bench.ts'
import { check } from './check.ts'
import { deFacto, documented } from './claim.ts'

const got = async (b: Bench, request: number, bytes: Uint8Array) =>
  (await b.kvm.ioctl(await b.vmFd(), request, bytes)).data!

describe('addresses of a VM', () => {
  const tss = documented('KVM_SET_TSS_ADDR')
  check('the TSS is below 4 GiB', tss, (b) => b.vm(KVM.SET_TSS_ADDR, 0xfffb_d000), 0)
  check('a TSS that ends above 4 GiB is refused', tss, (b) => b.vm(KVM.SET_TSS_ADDR, 0xffff_e000), 'EINVAL')
  check(
    'the identity map has no flags, only an address: 0 is the default',
    documented('KVM_SET_IDENTITY_MAP_ADDR'),
    (b) => b.vm(KVM.SET_IDENTITY_MAP_ADDR, new Uint8Array(8)),
    0,
  )
})

describe('clocks of a VM', () => {
  check(
    'the clock goes on from where it was set',
    documented('KVM_SET_CLOCK'),
    async (b) => {
      const clock = 1_000_000_000_000n
      const set = await b.vm(KVM.SET_CLOCK, structOf('kvm_clock_data', { clock }))
      const now = fieldOf(await got(b, KVM.GET_CLOCK, structOf('kvm_clock_data')), 'kvm_clock_data', 'clock')
      return [set, now >= clock, now < clock + 3_600_000_000_000n]
    },
    [0, true, true],
  )
  check(
    'the frequency of the TSC is told',
    documented('KVM_GET_TSC_KHZ'),
    async (b) => [Number(await b.vm(KVM.GET_TSC_KHZ)) > 0, Number(await b.vcpu(KVM.GET_TSC_KHZ)) > 0],
    [true, true],
  )
  check(
    "the TSC's frequency of a VM is its vCPUs'",
    documented('KVM_SET_TSC_KHZ'),
    async (b) => {
      const khz = Number(await b.vm(KVM.GET_TSC_KHZ))
      const set = await b.vm(KVM.SET_TSC_KHZ, khz)
      return [set, (await b.vcpu(KVM.GET_TSC_KHZ)) === khz]
    },
    [0, true],
  )
  check(
    "the TSC's frequency of a VM is set before its vCPUs",
    documented('KVM_SET_TSC_KHZ'),
    async (b) => {
      const khz = Number(await b.vm(KVM.GET_TSC_KHZ))
      await b.vcpuOf()
      return b.vm(KVM.SET_TSC_KHZ, khz)
    },
    'EINVAL',
    [
      {
        where: { before: '6.17' },
        outcome: 0,
        why: 'until dcbe5a466c12 it is taken, and vCPUs that exist keep theirs',
      },
    ],
  )
  check(
    "a vCPU takes the TSC's frequency that it has",
    documented('KVM_SET_TSC_KHZ'),
    async (b) => b.vcpu(KVM.SET_TSC_KHZ, Number(await b.vcpu(KVM.GET_TSC_KHZ))),
    0,
  )
})

describe('the PIT', () => {
  const pit = async (b: Bench) => {
    await b.vm(KVM.CREATE_IRQCHIP)
    await b.vm(KVM.CREATE_PIT2, structOf('kvm_pit_config'))
  }
  const reinject = structOf('kvm_reinject_control', { pit_reinject: 1 })
  check(
    'KVM_REINJECT_CONTROL without a PIT is ENXIO',
    documented('KVM_REINJECT_CONTROL'),
    (b) => b.vm(KVM.REINJECT_CONTROL, reinject),
    'ENXIO',
  )
  check(
    'KVM_REINJECT_CONTROL with a PIT is taken',
    documented('KVM_REINJECT_CONTROL'),
    async (b) => {
      await pit(b)
      return b.vm(KVM.REINJECT_CONTROL, reinject)
    },
    0,
  )
  for (const request of ['GET_PIT2', 'SET_PIT2'] as const) {
    check(
      `KVM_${request} without a PIT is ENXIO`,
      deFacto(`KVM_${request}`),
      (b) => b.vm(KVM[request], structOf('kvm_pit_state2')),
      'ENXIO',
    )
  }
  check(
    'the PIT of old is the same PIT',
    deFacto('KVM_CREATE_PIT'),
    async (b) => {
      await b.vm(KVM.CREATE_IRQCHIP)
      const made = await b.vm(KVM.CREATE_PIT)
      const state = structOf('kvm_pit_state')
      return [made, await b.vm(KVM.GET_PIT, state), await b.vm(KVM.GET_PIT2, structOf('kvm_pit_state2'))]
    },
    [0, 0, 0],
  )
})

describe('the irqchip', () => {
  for (const request of ['GET_IRQCHIP', 'SET_IRQCHIP'] as const) {
    check(
      `KVM_${request} without an irqchip is ENXIO`,
      deFacto(`KVM_${request}`),
      (b) => b.vm(KVM[request], structOf('kvm_irqchip')),
      'ENXIO',
    )
    check(
      `KVM_${request} of an unknown chip is EINVAL`,
      deFacto(`KVM_${request}`),
      async (b) => {
        await b.vm(KVM.CREATE_IRQCHIP)
        return b.vm(KVM[request], structOf('kvm_irqchip', { chip_id: 3 }))
      },
      'EINVAL',
    )
  }
  for (const chip of ['PIC_MASTER', 'PIC_SLAVE', 'IOAPIC'] as const) {
    check(
      `the state of ${chip} can be read and written back`,
      documented('KVM_SET_IRQCHIP'),
      async (b) => {
        await b.vm(KVM.CREATE_IRQCHIP)
        const chip_id = constant(`KVM_IRQCHIP_${chip}`)
        const state = await got(b, KVM.GET_IRQCHIP, structOf('kvm_irqchip', { chip_id }))
        const set = await b.vm(KVM.SET_IRQCHIP, state)
        const again = await got(b, KVM.GET_IRQCHIP, structOf('kvm_irqchip', { chip_id }))
        return [set, Buffer.from(again).equals(state)]
      },
      [0, true],
    )
  }
  check(
    'KVM_IRQ_LINE_STATUS says whether the interrupt came through',
    deFacto('KVM_IRQ_LINE_STATUS'),
    async (b) => {
      await b.vm(KVM.CREATE_IRQCHIP)
      const { errno, data } = await b.kvm.ioctl(
        await b.vmFd(),
        KVM.IRQ_LINE_STATUS,
        structOf('kvm_irq_level', { irq: 4, level: 1 }),
      )
      return errno ?? fieldOf(data!, 'kvm_irq_level', 'status') <= 1n
    },
    true,
  )
  check(
    'an MSI to a LAPIC that is on is delivered',
    documented('KVM_SIGNAL_MSI'),
    async (b) => {
      await b.vm(KVM.CREATE_IRQCHIP)
      const lapic = await b.get(KVM.GET_LAPIC, sizeOf('kvm_lapic_state'))
      lapic.set([0xff, 0x01], 0xf0)
      await b.vcpu(KVM.SET_LAPIC, lapic)
      return b.vm(KVM.SIGNAL_MSI, structOf('kvm_msi', { address_lo: 0xfee0_0000, data: 0x30 }))
    },
    1,
  )
  check(
    'the split irqchip takes the place of the whole one',
    documented('KVM_CAP_SPLIT_IRQCHIP'),
    async (b) => {
      const cap = structOf('kvm_enable_cap', { cap: CAP.SPLIT_IRQCHIP, args: [24] })
      return [
        await b.vm(KVM.ENABLE_CAP, cap),
        await b.vm(KVM.CREATE_IRQCHIP),
        await b.vm(KVM.ENABLE_CAP, cap),
      ]
    },
    [0, 'EEXIST', 'EEXIST'],
  )
  check(
    'the split irqchip comes before the first vCPU',
    deFacto('KVM_CAP_SPLIT_IRQCHIP'),
    async (b) => {
      await b.vcpuOf()
      return b.vm(KVM.ENABLE_CAP, structOf('kvm_enable_cap', { cap: CAP.SPLIT_IRQCHIP, args: [24] }))
    },
    'EEXIST',
  )
  check(
    'the split irqchip has at most 24 pins reserved for user space times what routing can hold',
    deFacto('KVM_CAP_SPLIT_IRQCHIP'),
    (b) => b.vm(KVM.ENABLE_CAP, structOf('kvm_enable_cap', { cap: CAP.SPLIT_IRQCHIP, args: [4097] })),
    'EINVAL',
  )
})

describe('filters of performance events', () => {
  const filter = documented('KVM_SET_PMU_EVENT_FILTER')
  const set =
    (values: Parameters<typeof structOf<'kvm_pmu_event_filter'>>[1], more = 0) =>
    (b: Bench) =>
      b.vm(KVM.SET_PMU_EVENT_FILTER, structOf('kvm_pmu_event_filter', values, more))
  check('a filter of no events is taken', filter, set({}), 0)
  check('a filter that denies one event is taken', filter, set({ action: 1, nevents: 1 }, 8), 0)
  check('an unknown action is refused', filter, set({ action: 2 }), 'EINVAL')
  check('too many events are E2BIG', filter, set({ nevents: 301 }, 301 * 8), 'E2BIG')
  check('events outside memory are EFAULT', filter, set({ nevents: 2 }, 8), 'EFAULT')
})

describe('devices', () => {
  const device = documented('KVM_CREATE_DEVICE')
  const type = constant('KVM_DEV_TYPE_VFIO')
  check(
    'a second device of VFIO is refused (the documentation says EEXIST)',
    deFacto(device.section),
    async (b) => [
      await b.vm(KVM.CREATE_DEVICE, structOf('kvm_create_device', { type })),
      await b.vm(KVM.CREATE_DEVICE, structOf('kvm_create_device', { type })),
    ],
    [0, 'EBUSY'],
  )
  const attribute = structOf('kvm_device_attr', { group: 99 })
  for (const request of ['SET', 'HAS'] as const) {
    check(
      `an unknown attribute of a device is ENXIO to KVM_${request}_DEVICE_ATTR`,
      documented(`KVM_${request}_DEVICE_ATTR`),
      async (b) => {
        const { dev } = await b.fds()
        return outcomeOf(await b.kvm.ioctl(dev, KVM[`${request}_DEVICE_ATTR`], attribute))
      },
      'ENXIO',
    )
  }
  for (const request of ['SET', 'GET', 'HAS'] as const) {
    check(
      `an unknown attribute of a vCPU is ENXIO to KVM_${request}_DEVICE_ATTR`,
      documented(`KVM_${request}_DEVICE_ATTR`),
      (b) => b.vcpu(KVM[`${request}_DEVICE_ATTR`], attribute),
      'ENXIO',
    )
  }
  check(
    'the TSC offset of a vCPU comes back as it was set',
    documented('KVM_SET_DEVICE_ATTR'),
    async (b) => {
      const value = await b.kvm.memory(4096)
      const offset = new Uint8Array([1, 2, 3, 4, 0, 0, 0, 0])
      const argument = structOf('kvm_device_attr')
      const patches = [{ at: offsetOf('kvm_device_attr', 'addr'), memory: value }]
      await value.write(0, offset)
      const set = await b.vcpu(KVM.SET_DEVICE_ATTR, argument, { patches })
      await value.write(0, new Uint8Array(8))
      const read = await b.vcpu(KVM.GET_DEVICE_ATTR, argument, { patches })
      return [set, read, [...(await value.read(0, 8))]]
    },
    [0, 0, [1, 2, 3, 4, 0, 0, 0, 0]],
    [
      {
        where: { accelerator: 'software' },
        outcome: [0, 0, [0, 0, 0, 0, 0, 0, 0, 0]],
        why: 'it takes an offset and has none',
      },
    ],
  )
})

describe('the dirty log of parts', () => {
  const clear = documented('KVM_CLEAR_DIRTY_LOG')
  const log = async (b: Bench, request: number, argument: Uint8Array, at: number, bits = 0) => {
    const bitmap = await b.kvm.memory(4096)
    await bitmap.write(0, new Uint8Array([bits]))
    const outcome = await b.vm(request, argument, { patches: [{ at, memory: bitmap }] })
    return outcome === 0 ? (await bitmap.read(0, 1))[0]! : outcome
  }
  const get = (b: Bench) =>
    log(b, KVM.GET_DIRTY_LOG, structOf('kvm_dirty_log'), offsetOf('kvm_dirty_log', 'dirty_bitmap'))
  const clearing = (b: Bench, first: number, count: number, bits: number) =>
    log(
      b,
      KVM.CLEAR_DIRTY_LOG,
      structOf('kvm_clear_dirty_log', { first_page: first, num_pages: count }),
      offsetOf('kvm_clear_dirty_log', 'dirty_bitmap'),
      bits,
    )
  const manual = (b: Bench) =>
    b.vm(KVM.ENABLE_CAP, structOf('kvm_enable_cap', { cap: CAP.MANUAL_DIRTY_LOG_PROTECT2, args: [1] }))
  const logged = (b: Bench) => b.slot({ bytes: 0x8000, flags: constant('KVM_MEM_LOG_DIRTY_PAGES') })
  check(
    'pages stay in the log until they are cleared',
    clear,
    async (b) => {
      const enabled = await manual(b)
      await b.guest('store')
      await logged(b)
      await b.exits(1)
      const both: Outcome[] = [await get(b), await get(b)].map((bits) => Number(bits) & 0b1100)
      const cleared = await clearing(b, 0, 8, 0b0100)
      return [enabled, ...both, Number(cleared) >= 0, Number(await get(b)) & 0b1100]
    },
    [0, 0b1100, 0b1100, true, 0b1000],
  )
  check(
    'the first page of a part is a multiple of 64',
    clear,
    async (b) => {
      await manual(b)
      await logged(b)
      return clearing(b, 1, 7, 0)
    },
    'EINVAL',
  )
  check(
    'a part that ends within the slot is whole words of 64 pages',
    deFacto(clear.section),
    async (b) => {
      await manual(b)
      await logged(b)
      return clearing(b, 0, 7, 0)
    },
    'EINVAL',
  )
  check(
    'a slot without a log has none to clear',
    deFacto(clear.section),
    async (b) => {
      await manual(b)
      await b.slot({ bytes: 0x8000 })
      return clearing(b, 0, 8, 0)
    },
    'ENOENT',
  )
})

describe('events of Hyper-V and Xen', () => {
  const event = (flags = 0, connection = 1) => structOf('kvm_hyperv_eventfd', { conn_id: connection, flags })
  const patched = async (b: Bench) => ({
    patches: [{ at: offsetOf('kvm_hyperv_eventfd', 'fd'), fd: await b.kvm.eventfd() }],
  })
  check(
    'a connection has one eventfd, until it is taken away',
    documented('KVM_HYPERV_EVENTFD'),
    async (b) => [
      await b.vm(KVM.HYPERV_EVENTFD, event(), await patched(b)),
      await b.vm(KVM.HYPERV_EVENTFD, event(), await patched(b)),
      await b.vm(KVM.HYPERV_EVENTFD, event(constant('KVM_HYPERV_EVENTFD_DEASSIGN'))),
      await b.vm(KVM.HYPERV_EVENTFD, event(constant('KVM_HYPERV_EVENTFD_DEASSIGN'))),
    ],
    [0, 'EEXIST', 0, 'ENOENT'],
    exceptionsWhereAbsent('KVM_HYPERV_EVENTFD', ['ENOTTY', 'ENOTTY', 'ENOTTY', 'ENOTTY']),
  )
  check(
    'a connection has at most 24 bits',
    documented('KVM_HYPERV_EVENTFD'),
    async (b) => b.vm(KVM.HYPERV_EVENTFD, event(0, 0x100_0000), await patched(b)),
    'EINVAL',
    exceptionsWhereAbsent('KVM_HYPERV_EVENTFD', 'ENOTTY'),
  )
  check(
    "an event channel of Xen needs the guest's shared page",
    deFacto('KVM_XEN_HVM_EVTCHN_SEND'),
    async (b) => {
      const flags = constant('KVM_XEN_HVM_CONFIG_EVTCHN_SEND')
      await b.vm(KVM.XEN_HVM_CONFIG, structOf('kvm_xen_hvm_config', { flags }))
      await b.vcpuOf()
      const priority = constant('KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL')
      return b.vm(
        KVM.XEN_HVM_EVTCHN_SEND,
        structOf('kvm_irq_routing_xen_evtchn', { port: 1, vcpu: 0, priority }),
      )
    },
    'EINVAL',
    exceptionsWhereAbsent('KVM_XEN_HVM_EVTCHN_SEND', 'ENOTTY'),
  )
  check(
    'an event channel of Xen is taken when both pages are there',
    documented('KVM_XEN_HVM_EVTCHN_SEND'),
    async (b) => {
      await b.slot({ bytes: 0x8000 })
      const { fd: vcpu } = await b.vcpuOf()
      const vm = await b.vmFd()
      const priority = constant('KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL')
      const send = structOf('kvm_irq_routing_xen_evtchn', { port: 1, vcpu: 0, priority })
      const shared = structOf('kvm_xen_hvm_attr', {
        type: constant('KVM_XEN_ATTR_TYPE_SHARED_INFO'),
        'u.shared_info.gfn': 2,
      })
      const info = structOf('kvm_xen_vcpu_attr', {
        type: constant('KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO'),
        'u.gpa': 0x2000,
      })
      return [
        outcomeOf(await b.kvm.ioctl(vm, KVM.XEN_HVM_SET_ATTR, shared)),
        outcomeOf(await b.kvm.ioctl(vcpu, KVM.XEN_VCPU_SET_ATTR, info)),
        outcomeOf(await b.kvm.ioctl(vm, KVM.XEN_HVM_EVTCHN_SEND, send)),
        outcomeOf(await b.kvm.ioctl(vm, KVM.XEN_HVM_EVTCHN_SEND, send)),
      ]
    },
    [0, 0, 0, 0],
    exceptionsWhereAbsent('KVM_XEN_HVM_EVTCHN_SEND', ['ENOTTY', 'EINVAL', 'ENOTTY', 'ENOTTY']),
  )
})
