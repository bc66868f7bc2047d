import { expect, test } from 'vitest'
import { CAP, constant, EXIT, fieldOf, KVM, offsetOf, sizeOf, structOf, withFields } from './api.ts'

test('numbers are those of linux/kvm.h', () => {
  expect([KVM.SET_REGS, KVM.CREATE_VM, KVM.SET_USER_MEMORY_REGION2]).toEqual([0x4090ae82, 0xae01, 0x40a0ae49])
  expect([CAP.USER_MEMORY, EXIT.MEMORY_FAULT, constant('KVM_MEM_READONLY')]).toEqual([3, 39, 2])
})

test('a structure is laid out by its fields', () => {
  const bytes = structOf('kvm_irqfd', { gsi: 4, flags: 1, pad: [1, 2] })

  expect(bytes).toEqual(
    new Uint8Array([0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 2, ...Array(14).fill(0)]),
  )
  expect(fieldOf(bytes, 'kvm_irqfd', 'gsi')).toBe(4n)
})

test('negative and 64-bit values keep their bits, signed fields are read unsigned', () => {
  const bytes = structOf('kvm_ioeventfd', { addr: 0xffff_ffff_ffff_fff0n, fd: -1 })

  expect(fieldOf(bytes, 'kvm_ioeventfd', 'addr')).toBe(0xffff_ffff_ffff_fff0n)
  expect(fieldOf(bytes, 'kvm_ioeventfd', 'fd')).toBe(0xffff_ffffn)
})

test('a change leaves the bytes that it was given', () => {
  const before = structOf('kvm_regs', { rax: 1 })
  const after = withFields(before, 'kvm_regs', { rip: 0x1000n })

  expect([fieldOf(before, 'kvm_regs', 'rip'), fieldOf(after, 'kvm_regs', 'rip')]).toEqual([0n, 0x1000n])
  expect(fieldOf(after, 'kvm_regs', 'rax')).toBe(1n)
})

test('a flexible array is behind the structure', () => {
  expect(structOf('kvm_cpuid2', { nent: 2 }, 80)).toHaveLength(88)
  expect([sizeOf('kvm_sregs'), offsetOf('kvm_sregs', 'cr0')]).toEqual([312, 224])
})

test('more elements than a field has are refused', () => {
  expect(() => structOf('kvm_regs', { rax: [1, 2] })).toThrow('kvm_regs.rax is u64, not 2')
  expect(() => structOf('kvm_sregs', { cs: 1 })).toThrow('kvm_sregs.cs is kvm_segment, not 1')
})
