import fc from 'fast-check'
import { CAP, constant, fieldOf, ioctlCall, KVM, offsetOf, sizeOf, structOf, withFields } from 'kvitest'
import { describe } from 'vitest'
import { type Bench, outcomeOf } from './bench.ts'
import { check } from './check.ts'
import { deFacto, documented } from './claim.ts'
import { bits, canonical, holdsForAll, notBack, roundTrip, type State } from './roundtrip.ts'
import { pack, u64 } from './struct.ts'

const regs: State<'kvm_regs'> = { struct: 'kvm_regs', get: KVM.GET_REGS, set: KVM.SET_REGS }
const sregs: State<'kvm_sregs'> = { struct: 'kvm_sregs', get: KVM.GET_SREGS, set: KVM.SET_SREGS }
const sregs2: State<'kvm_sregs2'> = { struct: 'kvm_sregs2', get: KVM.GET_SREGS2, set: KVM.SET_SREGS2 }
const debug: State<'kvm_debugregs'> = {
  struct: 'kvm_debugregs',
  get: KVM.GET_DEBUGREGS,
  set: KVM.SET_DEBUGREGS,
}
const events: State<'kvm_vcpu_events'> = {
  struct: 'kvm_vcpu_events',
  get: KVM.GET_VCPU_EVENTS,
  set: KVM.SET_VCPU_EVENTS,
}
const fpu: State<'kvm_fpu'> = { struct: 'kvm_fpu', get: KVM.GET_FPU, set: KVM.SET_FPU }

function holds(name: string, section: string, observe: (b: Bench) => Promise<unknown>): void {
  check(name, documented(section), observe, 'holds')
}

describe('what KVM_SET_REGS takes KVM_GET_REGS gives', () => {
  const names = ['rax', 'rbx', 'rcx', 'rdx', 'rsi', 'rdi', 'rsp', 'rbp', 'r8', 'r9', 'r10', 'r11'] as const
  for (const name of [...names, 'r12', 'r13', 'r14', 'r15', 'rip'] as const) {
    holds(`${name}: any value comes back`, 'KVM_SET_REGS', (b) => roundTrip(b, regs, { [name]: bits(64) }))
  }
  holds('rflags: the flags of arithmetic come back', 'KVM_SET_REGS', (b) =>
    roundTrip(b, regs, { rflags: bits(12).map((value) => (value & 0xcd5n) | 2n) }),
  )
})

const segmentFields = ['base', 'limit', 'selector'] as const

/** Sets one field of a segment and reads it back: segments are structures within the structure. */
async function segment(
  b: Bench,
  name: 'cs' | 'ds' | 'es' | 'fs' | 'gs' | 'ss' | 'tr' | 'ldt',
  field: (typeof segmentFields)[number],
) {
  const { fd } = await b.vcpuOf()
  const before = await b.get(KVM.GET_SREGS, sizeOf('kvm_sregs'))
  const at = offsetOf('kvm_sregs', name)
  const part = (bytes: Uint8Array) => bytes.slice(at, at + sizeOf('kvm_segment'))
  return holdsForAll(b, {
    values: { base: canonical, limit: bits(16), selector: bits(16) }[field],
    calls: (wanted) => {
      const changed = withFields(part(before), 'kvm_segment', { [field]: wanted })
      return [
        ioctlCall(fd, KVM.SET_SREGS, withFields(before, 'kvm_sregs', { [name]: changed })),
        ioctlCall(fd, KVM.GET_SREGS, structOf('kvm_sregs')),
      ]
    },
    judge: (wanted, [set, read]) =>
      set!.errno ?? notBack(field, wanted, fieldOf(part(read!.data!), 'kvm_segment', field)),
  })
}

describe('what KVM_SET_SREGS takes KVM_GET_SREGS gives', () => {
  for (const name of ['cs', 'ds', 'es', 'fs', 'gs', 'ss', 'tr', 'ldt'] as const) {
    for (const field of segmentFields) {
      holds(`${name}.${field}: any value comes back`, 'KVM_SET_SREGS', (b) => segment(b, name, field))
    }
  }
  holds('cr2: any value comes back', 'KVM_SET_SREGS', (b) => roundTrip(b, sregs, { cr2: bits(64) }))
  holds('cr8: its four bits come back', 'KVM_SET_SREGS', (b) => roundTrip(b, sregs, { cr8: bits(4) }))
  holds('cr3: an address of a page comes back', 'KVM_SET_SREGS', (b) =>
    roundTrip(b, sregs, { cr3: bits(24).map((page) => page << 12n) }),
  )
  holds('cr2 and cr8 by KVM_SET_SREGS2 come back', 'KVM_SET_SREGS2', (b) =>
    roundTrip(b, sregs2, { cr2: bits(64), cr8: bits(4) }),
  )
  check(
    'apic_base: its reserved bits are refused',
    deFacto('KVM_SET_SREGS'),
    async (b) => {
      const before = await b.get(KVM.GET_SREGS, sizeOf('kvm_sregs'))
      return b.vcpu(KVM.SET_SREGS, withFields(before, 'kvm_sregs', { apic_base: 0xfee0_0001 }))
    },
    'EINVAL',
  )
})

describe('other state of a vCPU', () => {
  for (const register of [0, 1, 2, 3]) {
    holds(`DR${register}: any address comes back`, 'KVM_SET_DEBUGREGS', async (b) => {
      const { fd } = await b.vcpuOf()
      const before = await b.get(KVM.GET_DEBUGREGS, sizeOf('kvm_debugregs'))
      return holdsForAll(b, {
        values: canonical,
        calls: (wanted) => {
          const set = before.slice()
          set.set(pack(['u64', wanted]), 8 * register)
          return [
            ioctlCall(fd, KVM.SET_DEBUGREGS, set),
            ioctlCall(fd, KVM.GET_DEBUGREGS, structOf('kvm_debugregs')),
          ]
        },
        judge: (wanted, [set, read]) => set!.errno ?? notBack('it', wanted, u64(read!.data!, 8 * register)),
      })
    })
  }
  holds('DR7: its low half comes back', 'KVM_SET_DEBUGREGS', (b) =>
    roundTrip(b, debug, { dr7: bits(16).map((value) => (value & 0x3ffn) | 0x400n) }),
  )
  holds('an interrupt that is injected comes back', 'KVM_SET_VCPU_EVENTS', (b) =>
    roundTrip(b, events, { 'interrupt.injected': fc.constant(1n), 'interrupt.nr': bits(8) }),
  )
  holds('NMIs that are masked or injected come back', 'KVM_SET_VCPU_EVENTS', (b) =>
    roundTrip(b, events, { 'nmi.injected': bits(1), 'nmi.masked': bits(1) }),
  )
  // No vector 2, which is the NMI, and none of INT3 and INTO, which are made again by their instruction.
  holds('an exception that is injected comes back', 'KVM_SET_VCPU_EVENTS', (b) =>
    roundTrip(b, events, {
      'exception.injected': fc.constant(1n),
      'exception.nr': bits(5).filter((vector) => vector < 2n || vector > 4n),
      'exception.has_error_code': fc.constant(1n),
      'exception.error_code': bits(16),
    }),
  )
  for (const field of ['fcw', 'fsw', 'last_opcode', 'last_ip', 'last_dp'] as const) {
    holds(`the FPU's ${field} comes back`, 'KVM_SET_FPU', (b) =>
      roundTrip(b, fpu, {
        [field]:
          field === 'last_opcode'
            ? bits(11)
            : bits(field.startsWith('last') ? 48 : 16).map((v) =>
                field === 'fcw' ? (v & 0xf3fn) | 0x40n : v,
              ),
      }),
    )
  }
  for (const [name, value] of [
    ['runnable', 0],
    ['uninitialised', 1],
    ['INIT received', 2],
    ['halted', 3],
  ] as const) {
    check(
      `with an irqchip the state ${name} comes back`,
      documented('KVM_SET_MP_STATE'),
      async (b) => {
        await b.vm(KVM.CREATE_IRQCHIP)
        const set = await b.vcpu(KVM.SET_MP_STATE, pack(['u32', value]))
        return [set, (await b.get(KVM.GET_MP_STATE, 4))[0]]
      },
      [0, value],
    )
  }
  check(
    'a vCPU that is told that it got a SIPI is runnable',
    deFacto('KVM_SET_MP_STATE'),
    async (b) => {
      await b.vm(KVM.CREATE_IRQCHIP)
      const set = await b.vcpu(KVM.SET_MP_STATE, pack(['u32', 4]))
      return [set, (await b.get(KVM.GET_MP_STATE, 4))[0]]
    },
    [0, 0],
  )
  holds('the LAPIC comes back as it was got', 'KVM_SET_LAPIC', async (b) => {
    await b.vm(KVM.CREATE_IRQCHIP)
    const before = await b.get(KVM.GET_LAPIC, sizeOf('kvm_lapic_state'))
    const set = await b.vcpu(KVM.SET_LAPIC, before)
    const after = await b.get(KVM.GET_LAPIC, sizeOf('kvm_lapic_state'))
    return set === 0 && Buffer.from(after).equals(before) ? 'holds' : set
  })
  holds("the LAPIC's task priority comes back", 'KVM_SET_LAPIC', async (b) => {
    await b.vm(KVM.CREATE_IRQCHIP)
    const before = await b.get(KVM.GET_LAPIC, sizeOf('kvm_lapic_state'))
    const { fd } = await b.vcpuOf()
    return holdsForAll(b, {
      values: bits(8),
      calls: (priority) => {
        const wanted = before.slice()
        wanted[0x80] = Number(priority)
        return [
          ioctlCall(fd, KVM.SET_LAPIC, wanted),
          ioctlCall(fd, KVM.GET_LAPIC, structOf('kvm_lapic_state')),
        ]
      },
      judge: (priority, [set, read]) => set!.errno ?? notBack('it', priority, BigInt(read!.data![0x80]!)),
    })
  })
  holds('the extended state comes back as it was got', 'KVM_SET_XSAVE', async (b) => {
    const before = await b.get(KVM.GET_XSAVE, sizeOf('kvm_xsave'))
    const set = await b.vcpu(KVM.SET_XSAVE, before)
    return set === 0 && Buffer.from(await b.get(KVM.GET_XSAVE, sizeOf('kvm_xsave'))).equals(before)
      ? 'holds'
      : set
  })
  holds('KVM_GET_XSAVE2 gives what KVM_GET_XSAVE gives', 'KVM_GET_XSAVE2', async (b) => {
    const size = Number(await b.vm(KVM.CHECK_EXTENSION, CAP.XSAVE2))
    if (size < sizeOf('kvm_xsave')) return size
    const larger = await b.get(KVM.GET_XSAVE2, size)
    const plain = await b.get(KVM.GET_XSAVE, sizeOf('kvm_xsave'))
    return Buffer.from(larger.subarray(0, plain.length)).equals(plain) ? 'holds' : 'differs'
  })
  holds('the extended control registers come back as they were got', 'KVM_SET_XCRS', async (b) => {
    const before = await b.get(KVM.GET_XCRS, sizeOf('kvm_xcrs'))
    const set = await b.vcpu(KVM.SET_XCRS, before)
    return set === 0 && Buffer.from(await b.get(KVM.GET_XCRS, sizeOf('kvm_xcrs'))).equals(before)
      ? 'holds'
      : set
  })
  check(
    'more extended control registers than there are are refused',
    deFacto('KVM_SET_XCRS'),
    (b) => b.vcpu(KVM.SET_XCRS, structOf('kvm_xcrs', { nr_xcrs: 17 })),
    'EINVAL',
  )
})

describe('what KVM_SET_MSRS takes KVM_GET_MSRS gives', () => {
  const one = (index: number, value: bigint) =>
    pack(['u32', 1], ['u32', 0], ['u32', index], ['u32', 0], ['u64', value])
  const msrs: [string, number, fc.Arbitrary<bigint>][] = [
    ['IA32_SYSENTER_CS', 0x174, bits(16)],
    ['IA32_SYSENTER_ESP', 0x175, bits(32)],
    ['IA32_SYSENTER_EIP', 0x176, bits(32)],
    ['IA32_PAT', 0x277, fc.constantFrom(0x0007_0406_0007_0406n, 0n, 0x0606_0606_0606_0606n)],
    ['IA32_TSC_ADJUST', 0x3b, bits(32)],
    ['STAR', 0xc000_0081, bits(64)],
    ['LSTAR', 0xc000_0082, canonical],
    ['CSTAR', 0xc000_0083, canonical],
    ['SFMASK', 0xc000_0084, bits(32)],
    ['FS_BASE', 0xc000_0100, canonical],
    ['GS_BASE', 0xc000_0101, canonical],
    ['KERNEL_GS_BASE', 0xc000_0102, canonical],
    ['TSC_AUX', 0xc000_0103, bits(32)],
    ['KVM_POLL_CONTROL', 0x4b56_4d05, bits(1)],
    ['KVM_WALL_CLOCK_NEW', 0x4b56_4d00, fc.constant(0n)],
  ]
  for (const [name, index, values] of msrs) {
    const claim = index >> 16 === 0x4b56 ? deFacto('KVM_SET_MSRS') : documented('KVM_SET_MSRS')
    check(
      `${name} comes back`,
      claim,
      async (b) => {
        await b.setCpuid(await b.supportedCpuid())
        const { fd } = await b.vcpuOf()
        return holdsForAll(b, {
          values,
          calls: (wanted) => [
            ioctlCall(fd, KVM.SET_MSRS, one(index, wanted)),
            ioctlCall(fd, KVM.GET_MSRS, one(index, 0n)),
          ],
          judge: (wanted, [set, read]) =>
            set!.value === 1
              ? notBack('it', wanted, u64(read!.data!, 16))
              : `0x${wanted.toString(16)} is refused`,
        })
      },
      'holds',
    )
  }
  check(
    'an address in LSTAR that is not canonical is refused',
    deFacto('KVM_SET_MSRS'),
    (b) => b.vcpu(KVM.SET_MSRS, one(0xc000_0082, 1n << 60n)),
    0,
  )
  check(
    'memory types in IA32_PAT that there are not are refused',
    deFacto('KVM_SET_MSRS'),
    (b) => b.vcpu(KVM.SET_MSRS, one(0x277, 0x02n)),
    0,
    [{ where: { accelerator: 'software' }, outcome: 1, why: 'it does not look at them' }],
  )
})

describe('what the chips of a VM take they give', () => {
  const chip = async (b: Bench, chip_id: number, edit: (state: Uint8Array) => Uint8Array) => {
    await b.vm(KVM.CREATE_IRQCHIP)
    const read = async () =>
      (await b.kvm.ioctl(await b.vmFd(), KVM.GET_IRQCHIP, structOf('kvm_irqchip', { chip_id }))).data!
    const wanted = edit(await read())
    const set = outcomeOf(await b.kvm.ioctl(await b.vmFd(), KVM.SET_IRQCHIP, wanted))
    return set === 0 && Buffer.from(await read()).equals(wanted) ? 'holds' : set
  }
  const at = (offset: number, value: number) => (state: Uint8Array) => {
    const copy = state.slice()
    copy[8 + offset] = value
    return copy
  }
  // struct kvm_pic_state: last_irr, irr, imr, isr, priority_add, irq_base...
  for (const [name, offset, value] of [
    ['mask', 2, 0xa5],
    ['priority', 4, 3],
    ['base vector', 5, 0x70],
  ] as const) {
    holds(`the ${name} of the master PIC comes back`, 'KVM_SET_IRQCHIP', (b) =>
      chip(b, constant('KVM_IRQCHIP_PIC_MASTER'), at(offset, value)),
    )
    holds(`the ${name} of the slave PIC comes back`, 'KVM_SET_IRQCHIP', (b) =>
      chip(b, constant('KVM_IRQCHIP_PIC_SLAVE'), at(offset, value)),
    )
  }
  for (const pin of [0, 5, 23]) {
    // struct kvm_ioapic_state: base_address, ioregsel, id, irr, pad, then 8 bytes a pin; bit 16 masks.
    holds(`the masked entry of IOAPIC pin ${pin} comes back`, 'KVM_SET_IRQCHIP', (b) =>
      chip(b, constant('KVM_IRQCHIP_IOAPIC'), (state) => {
        const copy = state.slice()
        copy.set(pack(['u64', 0x0300_0000_0001_0045n]), 8 + 24 + 8 * pin)
        return copy
      }),
    )
  }
  for (const channel of [0, 1, 2]) {
    // struct kvm_pit_channel_state, 24 bytes: count, latched_count...
    holds(`the count of PIT channel ${channel} comes back`, 'KVM_SET_PIT2', async (b) => {
      await b.vm(KVM.CREATE_IRQCHIP)
      await b.vm(KVM.CREATE_PIT2, structOf('kvm_pit_config'))
      const vm = await b.vmFd()
      const read = async () => (await b.kvm.ioctl(vm, KVM.GET_PIT2, structOf('kvm_pit_state2'))).data!
      const wanted = await read()
      wanted.set(pack(['u32', 0x1234]), 24 * channel)
      const set = outcomeOf(await b.kvm.ioctl(vm, KVM.SET_PIT2, wanted))
      const back = await read()
      return set === 0 && back[24 * channel] === 0x34 && back[24 * channel + 1] === 0x12 ? 'holds' : set
    })
  }
})
