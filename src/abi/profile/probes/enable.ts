import { catalogue } from '../../catalogue/catalogue.ts'
import { type Entries, outcomeOf, type ProbeSession, structure } from '../session.ts'

/** What KVM_ENABLE_CAP (api.rst 4.37) says to each capability of x86 that can be enabled, with arguments of 0. */
export async function enableable(session: ProbeSession): Promise<Entries> {
  const entries: Entries = {}
  const found = catalogue.capabilities.filter(
    ({ enable = [], arch = ['x86'] }) => enable.length > 0 && (arch.includes('all') || arch.includes('x86')),
  )
  const asks = found.flatMap(({ name, value, enable }) => enable!.map((kind) => ({ name, value, kind })))
  const results = await session.askFresh(
    asks.map(({ value, kind }) => ({
      kind,
      ioctl: 'KVM_ENABLE_CAP',
      argument: structure('kvm_enable_cap', { cap: value }),
    })),
  )
  for (const [i, { name, kind }] of asks.entries()) entries[`enable.${name}.${kind}`] = outcomeOf(results[i]!)
  return entries
}
