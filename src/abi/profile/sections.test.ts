import { expect, test } from 'vitest'
import { sectionsOf } from './sections.ts'

test('what two rounds do not agree on, or only one has, is volatile', () => {
  const first = { 'cap.A.sys': 1, 'state.KVM_GET_CLOCK.x': '0x1', 'stats.vm.gone': '0x0' }
  const second = { 'cap.A.sys': 1, 'state.KVM_GET_CLOCK.x': '0x2', 'stats.vm.come': '0x0' }

  expect(sectionsOf(first, second)).toEqual({
    abi: { 'cap.A.sys': 1 },
    machine: {},
    volatile: ['state.KVM_GET_CLOCK.x', 'stats.vm.gone', 'stats.vm.come'],
  })
})

test('a time is volatile even when two rounds agree, but that there is none is a value', () => {
  const agree = (entries: Record<string, string>) => sectionsOf(entries, entries)

  expect(agree({ 'msr.index.MSR_TSC': '0x10' }).volatile).toEqual(['msr.index.MSR_TSC'])
  expect(agree({ 'state.KVM_GET_TSC_KHZ.vm': 'ENOTTY' })).toMatchObject({
    machine: { 'state.KVM_GET_TSC_KHZ.vm': 'ENOTTY' },
    volatile: [],
  })
})

test("KVM's own MSRs are of KVM, a CPU's of the machine", () => {
  const entries = {
    'msr.index.MSR_HV_RESET': '0x0',
    'msr.index.MSR_KVM_STEAL_TIME': '0x0',
    'msr.index.MSR_STAR': '0x0',
    'msr.feature.0x10f': '0x0',
    'cap.KVM_CAP_NR_VCPUS.sys': '0x1',
    'cap.KVM_CAP_NR_MEMSLOTS.sys': '0x1',
  }

  const { abi, machine } = sectionsOf(entries, entries)

  expect(Object.keys(abi)).toEqual([
    'msr.index.MSR_HV_RESET',
    'msr.index.MSR_KVM_STEAL_TIME',
    'cap.KVM_CAP_NR_MEMSLOTS.sys',
  ])
  expect(Object.keys(machine)).toEqual([
    'msr.index.MSR_STAR',
    'msr.feature.0x10f',
    'cap.KVM_CAP_NR_VCPUS.sys',
  ])
})
