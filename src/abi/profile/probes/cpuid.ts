import type { RawHandle } from '../../../native/raw-contract.ts'
import { catalogue } from '../../catalogue/catalogue.ts'
import { type Entries, hex, type ProbeSession, structure } from '../session.ts'

const tables = {
  supported: 'KVM_GET_SUPPORTED_CPUID',
  emulated: 'KVM_GET_EMULATED_CPUID',
  hyperv: 'KVM_GET_SUPPORTED_HV_CPUID',
} as const

const most = 256
const headerSize = catalogue.struct('kvm_cpuid2').size
const entrySize = catalogue.struct('kvm_cpuid_entry2').size

/** A table as its ioctl gave it, or the errno. */
export async function cpuidTable(
  session: ProbeSession,
  fd: RawHandle,
  ioctl: string,
): Promise<Uint8Array | string> {
  const bytes = new Uint8Array(headerSize + most * entrySize)
  const answer = await session.get(fd, ioctl, structure('kvm_cpuid2', { nent: most }, bytes))
  if (typeof answer === 'string') return answer
  const count = Math.min(new DataView(answer.buffer, answer.byteOffset).getUint32(0, true), most)
  return answer.subarray(0, headerSize + count * entrySize)
}

/** Every leaf of the CPUID tables that KVM offers: `cpuid.supported.0x7.0x0.ebx`; the index only where it counts. */
export async function cpuid(session: ProbeSession): Promise<Entries> {
  const entries: Entries = {}
  const isIndexed = catalogue.constant('KVM_CPUID_FLAG_SIGNIFCANT_INDEX')
  for (const [name, ioctl] of Object.entries(tables)) {
    const table = await cpuidTable(session, session.system, ioctl)
    if (typeof table === 'string') {
      entries[`cpuid.${name}`] = table
      continue
    }
    const view = new DataView(table.buffer, table.byteOffset, table.byteLength)
    for (let at = headerSize; at < table.length; at += entrySize) {
      const read = (field: string) => view.getUint32(at + catalogue.field('kvm_cpuid_entry2', field)[0], true)
      const index = BigInt(read('flags')) & isIndexed ? `.${hex(read('index'))}` : ''
      for (const register of ['eax', 'ebx', 'ecx', 'edx']) {
        entries[`cpuid.${name}.${hex(read('function'))}${index}.${register}`] = hex(read(register))
      }
    }
  }
  return entries
}
