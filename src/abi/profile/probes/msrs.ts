import type { RawHandle } from '../../../native/raw-contract.ts'
import { msrName } from '../msr-names.ts'
import { type Entries, hex, outcomeOf, type ProbeSession, structure } from '../session.ts'
import { cpuidTable } from './cpuid.ts'

const most = 4096

/** Indices that a list ioctl (api.rst 4.3) gives, sorted; or its errno. */
async function listOf(session: ProbeSession, ioctl: string): Promise<number[] | string> {
  const bytes = new Uint8Array(4 + 4 * most)
  const answer = await session.get(session.system, ioctl, structure('kvm_msr_list', { nmsrs: most }, bytes))
  if (typeof answer === 'string') return answer
  const view = new DataView(answer.buffer, answer.byteOffset)
  const count = Math.min(view.getUint32(0, true), most)
  return Array.from({ length: count }, (_, i) => view.getUint32(4 + 4 * i, true)).sort((a, b) => a - b)
}

/** KVM_GET_MSRS (4.18) of each by itself: the value, or `refused`. */
async function values(session: ProbeSession, fd: RawHandle, indices: readonly number[]): Promise<string[]> {
  const results = await session.ask(
    indices.map((index) => {
      const argument = new Uint8Array(24)
      const view = new DataView(argument.buffer)
      view.setUint32(0, 1, true)
      view.setUint32(8, index, true)
      return { fd, ioctl: 'KVM_GET_MSRS', argument }
    }),
  )
  return results.map((result) => {
    const outcome = outcomeOf(result)
    if (outcome === 0) return 'refused'
    if (outcome !== 1) return String(outcome)
    return hex(new DataView(result.data!.buffer, result.data!.byteOffset).getBigUint64(16, true))
  })
}

/**
 * MSRs to save (`msr.index.NAME`, with what a vCPU has after reset once it got the supported CPUID) and those that
 * tell features (`msr.feature.NAME`, with the host's value).
 */
export async function msrs(session: ProbeSession): Promise<Entries> {
  const entries: Entries = {}
  const features = await listOf(session, 'KVM_GET_MSR_FEATURE_INDEX_LIST')
  if (typeof features === 'string') entries['msr.feature'] = features
  else {
    const read = await values(session, session.system, features)
    for (const [i, index] of features.entries()) entries[`msr.feature.${msrName(index)}`] = read[i]!
  }
  const saved = await listOf(session, 'KVM_GET_MSR_INDEX_LIST')
  if (typeof saved === 'string') entries['msr.index'] = saved
  else {
    await session.withVcpu(async (vcpu) => {
      const table = await cpuidTable(session, session.system, 'KVM_GET_SUPPORTED_CPUID')
      if (typeof table !== 'string')
        await session.ask([{ fd: vcpu, ioctl: 'KVM_SET_CPUID2', argument: table }])
      const read = await values(session, vcpu, saved)
      for (const [i, index] of saved.entries()) entries[`msr.index.${msrName(index)}`] = read[i]!
    })
  }
  return entries
}
