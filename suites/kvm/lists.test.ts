import { fieldOf, KVM, sizeOf, structOf, withFields } from 'kvitest'
import { describe } from 'vitest'
import { exceptionsWhereAbsent } from './absences.ts'
import type { Bench } from './bench.ts'
import { check, checkShared } from './check.ts'
import { deFacto, documented } from './claim.ts'
import { pack, u32 } from './struct.ts'

const entry = sizeOf('kvm_cpuid_entry2')
const cpuid = (count: number) => structOf('kvm_cpuid2', { nent: count }, count * entry)

async function indices(b: Bench, request: number): Promise<number[]> {
  const short = await b.kvm.ioctl(b.system, request, structOf('kvm_msr_list'))
  const count = u32(short.data!, 0)
  const { data } = await b.kvm.ioctl(b.system, request, structOf('kvm_msr_list', { nmsrs: count }, 4 * count))
  return Array.from({ length: count }, (_, i) => u32(data!, 4 + 4 * i))
}

const msrTable = (all: number[]) =>
  pack(
    ['u32', all.length],
    ['u32', 0],
    ...all.flatMap((index) => [['u32', index] as ['u32', number], ['pad', 12] as ['pad', number]]),
  )

describe('lists of MSRs', () => {
  const list = documented('KVM_GET_MSR_FEATURE_INDEX_LIST')
  checkShared(
    'a list of feature MSRs that is too short is E2BIG and told its size',
    list,
    async (b) => {
      const answer = await b.kvm.ioctl(b.system, KVM.GET_MSR_FEATURE_INDEX_LIST, structOf('kvm_msr_list'))
      return [answer.errno, u32(answer.data!, 0) > 0]
    },
    ['E2BIG', true],
  )
  checkShared(
    'every feature MSR of the list can be read without a VM',
    documented('KVM_GET_MSRS'),
    async (b) => {
      const all = await indices(b, KVM.GET_MSR_FEATURE_INDEX_LIST)
      return Number(await b.sys(KVM.GET_MSRS, msrTable(all))) === all.length
    },
    true,
  )
  checkShared(
    'no MSR is in the list twice',
    deFacto('KVM_GET_MSR_INDEX_LIST'),
    async (b) => {
      const all = await indices(b, KVM.GET_MSR_INDEX_LIST)
      return all.filter((one, i) => all.indexOf(one) !== i)
    },
    [],
  )
  check(
    'KVM_GET_MSRS stops at the first MSR that it does not have',
    documented('KVM_GET_MSRS'),
    (b) => b.vcpu(KVM.GET_MSRS, msrTable([0x174, 0xdead, 0x175])),
    1,
  )
  check(
    'KVM_SET_MSRS stops at the first MSR that it does not have',
    documented('KVM_SET_MSRS'),
    (b) => b.vcpu(KVM.SET_MSRS, msrTable([0x174, 0x175, 0xdead])),
    2,
  )
  check(
    'more MSRs at once than KVM takes are E2BIG',
    deFacto('KVM_GET_MSRS'),
    (b) => b.vcpu(KVM.GET_MSRS, pack(['u32', 256], ['pad', 4 + 256 * 16])),
    'E2BIG',
  )
})

describe('lists of CPUID', () => {
  const supported = documented('KVM_GET_SUPPORTED_CPUID')
  checkShared(
    'a table of more entries than there are is filled and told how many (the documentation says ENOMEM)',
    deFacto(supported.section),
    async (b) => {
      const answer = await b.kvm.ioctl(b.system, KVM.GET_SUPPORTED_CPUID, cpuid(1000))
      return [answer.errno, Number(fieldOf(answer.data!, 'kvm_cpuid2', 'nent')) < 256]
    },
    [undefined, true],
  )
  checkShared(
    'a table of no entries is E2BIG',
    supported,
    (b) => b.sys(KVM.GET_SUPPORTED_CPUID, cpuid(0)),
    'E2BIG',
  )
  checkShared(
    'a table of no emulated entries is E2BIG',
    documented('KVM_GET_EMULATED_CPUID'),
    (b) => b.sys(KVM.GET_EMULATED_CPUID, cpuid(0)),
    'E2BIG',
  )
  checkShared(
    'a table of Hyper-V entries that is too small is E2BIG',
    documented('KVM_GET_SUPPORTED_HV_CPUID'),
    async (b) => [
      await b.sys(KVM.GET_SUPPORTED_HV_CPUID, cpuid(1)),
      await b.vcpu(KVM.GET_SUPPORTED_HV_CPUID, cpuid(1)),
    ],
    ['E2BIG', 'E2BIG'],
    exceptionsWhereAbsent('KVM_GET_SUPPORTED_HV_CPUID', ['EINVAL', 'EINVAL']),
  )
  checkShared(
    'the first Hyper-V entry is of its own range',
    documented('KVM_GET_SUPPORTED_HV_CPUID'),
    async (b) => {
      const { data, errno } = await b.kvm.ioctl(b.system, KVM.GET_SUPPORTED_HV_CPUID, cpuid(32))
      return errno ?? u32(data!, sizeOf('kvm_cpuid2'))
    },
    0x4000_0000,
    exceptionsWhereAbsent('KVM_GET_SUPPORTED_HV_CPUID', 'EINVAL'),
  )
  check(
    'what is supported can be set, and comes back with the same leaves, but for empty ones',
    deFacto('KVM_SET_CPUID2'),
    async (b) => {
      const entries = await b.supportedCpuid()
      const set = await b.setCpuid(entries)
      const { data } = await b.kvm.ioctl((await b.vcpuOf()).fd, KVM.GET_CPUID2, cpuid(256))
      const leaf = (bytes: Uint8Array) => `${u32(bytes, 0)}.${u32(bytes, 4)}`
      const back = Array.from({ length: u32(data!, 0) }, (_, i) => leaf(data!.slice(8 + i * entry)))
      const given = entries.map(leaf)
      // A leaf of zeros says what one that is not there says.
      const isEmpty = (bytes: Uint8Array) => bytes.slice(12, 28).every((byte) => byte === 0)
      const full = entries.filter((bytes) => !isEmpty(bytes)).map(leaf)
      return [set, full.filter((one) => !back.includes(one)), back.filter((one) => !given.includes(one))]
    },
    [0, [], []],
  )
  check(
    'KVM_GET_CPUID2 into too small a table is E2BIG, and not told the size',
    deFacto('KVM_GET_CPUID2'),
    async (b) => {
      const entries = await b.supportedCpuid()
      await b.setCpuid(entries)
      const { errno, data } = await b.kvm.ioctl((await b.vcpuOf()).fd, KVM.GET_CPUID2, cpuid(1))
      return [errno, u32(data!, 0)]
    },
    ['E2BIG', 1],
  )
  check(
    'CPUID may not change after the vCPU ran',
    deFacto('KVM_SET_CPUID2'),
    async (b) => {
      await b.guest('io_out')
      const entries = await b.supportedCpuid()
      await b.setCpuid(entries)
      await b.exits(1)
      return [await b.setCpuid(entries), await b.setCpuid(entries.slice(0, 3))]
    },
    [0, 'EINVAL'],
    [
      {
        where: { accelerator: 'software' },
        outcome: ['EINVAL', 'EINVAL'],
        why: 'it compares with what it has made of the table itself',
      },
    ],
  )
  check(
    'what KVM_GET_CPUID2 gives can be set once more after the vCPU ran',
    deFacto('KVM_SET_CPUID2'),
    async (b) => {
      await b.guest('io_out')
      const entries = await b.supportedCpuid()
      await b.setCpuid(entries)
      await b.exits(1)
      const { data } = await b.kvm.ioctl((await b.vcpuOf()).fd, KVM.GET_CPUID2, cpuid(256))
      // 6.1 leaves the caller's number of entries as it was.
      const nent = Math.min(Number(fieldOf(data!, 'kvm_cpuid2', 'nent')), entries.length)
      return b.vcpu(KVM.SET_CPUID2, withFields(data!, 'kvm_cpuid2', { nent }))
    },
    0,
  )
  check(
    'KVM_SET_CPUID takes the entries of old',
    documented('KVM_SET_CPUID'),
    (b) => b.vcpu(KVM.SET_CPUID, structOf('kvm_cpuid', { nent: 1 }, sizeOf('kvm_cpuid_entry'))),
    0,
  )
})
