import { expect, test } from 'vitest'
import { goldenOf } from './golden.ts'
import { profileOf } from './testing/profile-of.ts'

const lab = (qemu: string, value: string) =>
  profileOf({
    environment: { host: 'lab:k', accelerator: 'tcg', backend: 'kvm_amd', qemu, 'kernel.release': value },
    abi: { 'cap.KVM_CAP_HLT.sys': value },
    machine: { 'cpuid.supported.0x1.eax': value },
    volatile: [`state.KVM_GET_PIT2.${value}`, `msr.index.MSR_STAR${value}`],
  })

test('a golden has nothing that every update changes', () => {
  expect(goldenOf(lab('7.2.22', '1')).environment).toEqual({
    host: 'lab:k',
    accelerator: 'tcg',
    backend: 'kvm_amd',
    qemu: '7.2',
  })
})

test('under a QEMU of the same minor version all of it is compared', () => {
  expect(goldenOf(lab('7.2.22', 'new'), goldenOf(lab('7.2.1', 'old')))).toEqual(
    goldenOf(lab('7.2.22', 'new')),
  )
})

test('under another QEMU the machine is taken over and KVM is compared', () => {
  expect(goldenOf(lab('8.2.0', 'new'), goldenOf(lab('7.2.1', 'old')))).toMatchObject({
    environment: { qemu: '7.2' },
    abi: { 'cap.KVM_CAP_HLT.sys': 'new' },
    machine: { 'cpuid.supported.0x1.eax': 'old' },
    volatile: ['state.KVM_GET_PIT2.new', 'msr.index.MSR_STARold'],
  })
})
