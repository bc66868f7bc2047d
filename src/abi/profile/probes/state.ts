import { catalogue } from '../../catalogue/catalogue.ts'
import { type Entries, hex, type ProbeSession, structure } from '../session.ts'

/** What a fresh vCPU answers to these, with an irqchip in its VM. */
const vcpuStates = [
  ['KVM_GET_REGS', 'kvm_regs'],
  ['KVM_GET_SREGS2', 'kvm_sregs2'],
  ['KVM_GET_SREGS', 'kvm_sregs'],
  ['KVM_GET_DEBUGREGS', 'kvm_debugregs'],
  ['KVM_GET_FPU', 'kvm_fpu'],
  ['KVM_GET_VCPU_EVENTS', 'kvm_vcpu_events'],
  ['KVM_GET_MP_STATE', 'kvm_mp_state'],
] as const

const padding = /(^|[._])(pad(ding)?|reserved|rsvd)\d*(\[|$)/

/** Numbers of more than this many elements are one line. */
const manyElements = 8

function readNumber(bytes: Uint8Array, at: number, size: number): bigint {
  let value = 0n
  for (let i = size - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[at + i]!)
  return value
}

const scalars: Record<string, number> = { u8: 1, s8: 1, u16: 2, s16: 2, u32: 4, s32: 4, u64: 8, s64: 8 }

/** Every field of a structure, by path; arrays of bytes and long arrays as one line of hex digits, `0x0` when all zero. */
export function fieldsOf(struct: string, bytes: Uint8Array, prefix: string, offset = 0): Entries {
  const entries: Entries = {}
  for (const [path, [at, size, type]] of Object.entries(catalogue.struct(struct).fields)) {
    const [, element = type, count] = /^(\w+)\[(\d*)\]$/.exec(type) ?? []
    if (padding.test(path) || type === 'struct' || type === 'union' || type === 'ptr' || count === '')
      continue
    const place = offset + at
    const elements = count === undefined ? 1 : Number(count)
    const width = size / elements
    const nameOf = (i: number) => `${prefix}.${path}${count === undefined ? '' : `[${i}]`}`
    if (element in scalars && (elements > manyElements || (count !== undefined && width === 1))) {
      const digits = Buffer.from(bytes.subarray(place, place + size)).toString('hex')
      entries[`${prefix}.${path}`] =
        `0x${digits.replace(/^0+(?=.)|0+$/g, (zeros) => (/[^0]/.test(digits) ? zeros : ''))}`
      if (!/[^0]/.test(digits)) entries[`${prefix}.${path}`] = '0x0'
      continue
    }
    for (let i = 0; i < elements; i++) {
      if (element in scalars) entries[nameOf(i)] = hex(readNumber(bytes, place + i * width, width))
      else if (element.startsWith('kvm_')) {
        Object.assign(entries, fieldsOf(element, bytes, nameOf(i), place + i * width))
      }
    }
  }
  return entries
}

/** Words of a register page (LAPIC, XSAVE) that are not zero. */
function words(bytes: Uint8Array, prefix: string, step: number): Entries {
  const entries: Entries = {}
  for (let at = 0; at + 4 <= bytes.length; at += step) {
    const value = readNumber(bytes, at, 4)
    if (value !== 0n) entries[`${prefix}.0x${at.toString(16).padStart(3, '0')}`] = hex(value)
  }
  return entries
}

/** State of a VM and vCPU that nobody has touched: KVM_GET_ by its name, field by field. */
export async function state(session: ProbeSession): Promise<Entries> {
  const entries: Entries = { 'size.kvm_run': session.areaSize }
  const add = (name: string, answer: Uint8Array | string, decode: (bytes: Uint8Array) => Entries) =>
    Object.assign(entries, typeof answer === 'string' ? { [name]: answer } : decode(answer))

  await session.withVm(async (vm) => {
    await session.ask([{ fd: vm, ioctl: 'KVM_CREATE_IRQCHIP' }])
    const vcpu = await session.vcpu(vm)
    for (const [ioctl, struct] of vcpuStates) {
      const name = `state.${ioctl}`
      const answer = await session.get(vcpu, ioctl, structure(struct, {}))
      add(name, answer, (bytes) => fieldsOf(struct, bytes, name))
    }
    const lapic = await session.get(vcpu, 'KVM_GET_LAPIC', structure('kvm_lapic_state', {}))
    add('state.KVM_GET_LAPIC', lapic, (bytes) => words(bytes, 'state.KVM_GET_LAPIC', 16))
    const xsave = await session.get(vcpu, 'KVM_GET_XSAVE', new Uint8Array(4096))
    add('state.KVM_GET_XSAVE', xsave, (bytes) => words(bytes, 'state.KVM_GET_XSAVE', 4))
    const xcrs = await session.get(vcpu, 'KVM_GET_XCRS', structure('kvm_xcrs', {}))
    add('state.KVM_GET_XCRS', xcrs, (bytes) => ({
      'state.KVM_GET_XCRS.nr_xcrs': Number(readNumber(bytes, 0, 4)),
      'state.KVM_GET_XCRS.xcr0': hex(readNumber(bytes, 16, 8)),
    }))
    const nested = await session.get(
      vcpu,
      'KVM_GET_NESTED_STATE',
      structure('kvm_nested_state', { size: 16384 }, new Uint8Array(16384)),
    )
    add('state.KVM_GET_NESTED_STATE', nested, (bytes) => ({
      'state.KVM_GET_NESTED_STATE.flags': hex(readNumber(bytes, 0, 2)),
      'state.KVM_GET_NESTED_STATE.format': Number(readNumber(bytes, 2, 2)),
      'state.KVM_GET_NESTED_STATE.size': Number(readNumber(bytes, 4, 4)),
    }))
    for (const [chip, name] of ['PIC_MASTER', 'PIC_SLAVE', 'IOAPIC'].entries()) {
      const answer = await session.get(vm, 'KVM_GET_IRQCHIP', structure('kvm_irqchip', { chip_id: chip }))
      const prefix = `state.KVM_GET_IRQCHIP.${name}`
      add(prefix, answer, (bytes) =>
        name === 'IOAPIC'
          ? {
              ...fieldsOf('kvm_ioapic_state', bytes, prefix, 8),
              ...words(bytes.subarray(32, 224), `${prefix}.redirtbl`, 4),
            }
          : fieldsOf('kvm_pic_state', bytes, prefix, 8),
      )
    }
    await session.close(vcpu)
    await session.ask([{ fd: vm, ioctl: 'KVM_CREATE_PIT2', argument: structure('kvm_pit_config', {}) }])
    const pit = await session.get(vm, 'KVM_GET_PIT2', structure('kvm_pit_state2', {}))
    add('state.KVM_GET_PIT2', pit, (bytes) => fieldsOf('kvm_pit_state2', bytes, 'state.KVM_GET_PIT2'))
  })

  await session.withVcpu(async (vcpu, vm) => {
    const [ofVcpu, ofVm, pages, clock, mce] = await session.ask([
      { fd: vcpu, ioctl: 'KVM_GET_TSC_KHZ' },
      { fd: vm, ioctl: 'KVM_GET_TSC_KHZ' },
      { fd: vm, ioctl: 'KVM_GET_NR_MMU_PAGES' },
      { fd: vm, ioctl: 'KVM_GET_CLOCK', argument: structure('kvm_clock_data', {}) },
      { fd: session.system, ioctl: 'KVM_X86_GET_MCE_CAP_SUPPORTED', argument: new Uint8Array(8) },
    ])
    entries['state.KVM_GET_TSC_KHZ.vcpu'] = ofVcpu!.errno ?? ofVcpu!.value
    entries['state.KVM_GET_TSC_KHZ.vm'] = ofVm!.errno ?? ofVm!.value
    entries['state.KVM_GET_NR_MMU_PAGES'] = pages!.errno ?? pages!.value
    entries['state.KVM_GET_CLOCK.flags'] = clock!.errno ?? hex(readNumber(clock!.data!, 8, 4))
    entries['state.KVM_X86_GET_MCE_CAP_SUPPORTED'] = mce!.errno ?? hex(readNumber(mce!.data!, 0, 8))
  })
  return entries
}
