import { catalogue } from '../../catalogue/catalogue.ts'
import { type Entries, outcomeOf, type ProbeSession, structure } from '../session.ts'

const headerSize = catalogue.struct('kvm_cpuid2').size
const entrySize = catalogue.struct('kvm_cpuid_entry2').size
/** The limit was 80 until 5.9 (3f4e3eb4), 256 from then on. */
const sizes = [1, 40, 80, 81, 128, 256, 257, 512]

/** Where KVM says that there is too much: entries that KVM_SET_CPUID2 takes, the most of some that were tried. */
export async function limits(session: ProbeSession): Promise<Entries> {
  const results = await session.askFresh(
    sizes.map((entries) => ({
      kind: 'vcpu',
      ioctl: 'KVM_SET_CPUID2',
      argument: structure('kvm_cpuid2', { nent: entries }, new Uint8Array(headerSize + entries * entrySize)),
    })),
  )
  const accepted = sizes.filter((_, at) => outcomeOf(results[at]!) !== 'E2BIG')
  return { 'limit.KVM_SET_CPUID2.entries': Math.max(0, ...accepted) }
}
