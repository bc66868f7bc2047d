import { catalogue } from '../../catalogue/catalogue.ts'
import { type Entries, hex, outcomeOf, type ProbeSession } from '../session.ts'

/** Bytes that are enough for the header and all descriptors of one fd. */
const most = 64 << 10

/** Descriptors of the binary statistics (api.rst 4.133): `stats.vm.pages_4k = 0x11`, the flags as the kernel gives them. */
export async function stats(session: ProbeSession): Promise<Entries> {
  const entries: Entries = {}
  await session.withVcpu(async (vcpu, vm) => {
    for (const [kind, of] of [
      ['vm', vm],
      ['vcpu', vcpu],
    ] as const) {
      const fd = session.kvm.nextHandle()
      const request = catalogue.request('KVM_GET_STATS_FD')
      const [made] = await session.calls([{ do: 'ioctl', fd: of, request, as: fd }])
      if (!made!.madeFd) {
        entries[`stats.${kind}`] = outcomeOf(made!)
        continue
      }
      const [read] = await session.calls([{ do: 'readFd', fd, length: most, offset: 0 }])
      await session.close(fd)
      Object.assign(entries, read!.data ? descriptors(read!.data, `stats.${kind}`) : {})
    }
  })
  return entries
}

function descriptors(bytes: Uint8Array, prefix: string): Entries {
  const entries: Entries = {}
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const header = (field: string) => view.getUint32(catalogue.field('kvm_stats_header', field)[0], true)
  const place = (field: string) => catalogue.field('kvm_stats_desc', field)[0]
  const size = place('name') + header('name_size')
  for (let i = 0; i < header('num_desc'); i++) {
    const at = header('desc_offset') + i * size
    if (at + size > bytes.length) break
    const name = Buffer.from(bytes.subarray(at + place('name'), at + size)).toString('latin1')
    entries[`${prefix}.${name.replace(/\0.*$/s, '')}`] = hex(view.getUint32(at + place('flags'), true))
  }
  return entries
}
