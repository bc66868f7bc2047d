/**
 * What neither header nor api.rst says: where ioctls without a section work, by the function that handles them, and
 * architectures that a section leaves out.
 */
import type { Additions } from './build.ts'

const vm = (handler: string) => ({ fd: ['vm' as const], arch: ['x86'], reason: handler })
const vcpu = (handler: string) => ({ fd: ['vcpu' as const], arch: ['x86'], reason: handler })

const archVm = 'arch/x86/kvm/x86.c, kvm_arch_vm_ioctl'
const archVcpu = 'arch/x86/kvm/x86.c, kvm_arch_vcpu_ioctl'
const anyVm = 'virt/kvm/kvm_main.c, kvm_vm_ioctl'
const assignment =
  'device assignment of old, on the VM; gone since Linux 4.12, its numbers left the header later'

export const additions: Additions = {
  KVM_SET_CPUID2: vcpu(archVcpu),
  KVM_GET_CPUID2: vcpu(archVcpu),
  KVM_TPR_ACCESS_REPORTING: vcpu(archVcpu),
  KVM_SET_VAPIC_ADDR: vcpu(archVcpu),
  KVM_SET_NR_MMU_PAGES: vm(archVm),
  KVM_GET_NR_MMU_PAGES: vm(`${archVm} of 6.1; 6.12 has the number in its header and no handler`),
  KVM_CREATE_PIT: vm(archVm),
  KVM_GET_PIT: vm(archVm),
  KVM_SET_PIT: vm(archVm),
  KVM_IRQ_LINE_STATUS: { ...vm(anyVm), arch: ['x86', 'arm64'] },
  KVM_RESET_DIRTY_RINGS: { ...vm(anyVm), arch: ['x86', 'arm64', 'riscv'] },
  KVM_HAS_DEVICE_ATTR: {
    fd: ['vm', 'vcpu', 'dev'],
    arch: ['x86', 'arm64', 's390'],
    reason: 'as its siblings KVM_SET_DEVICE_ATTR and KVM_GET_DEVICE_ATTR in api.rst 4.80 of 6.12',
  },
  KVM_ASSIGN_PCI_DEVICE: vm(assignment),
  KVM_ASSIGN_DEV_IRQ: vm(assignment),
  KVM_DEASSIGN_PCI_DEVICE: vm(assignment),
  KVM_ASSIGN_SET_MSIX_NR: vm(assignment),
  KVM_ASSIGN_SET_MSIX_ENTRY: vm(assignment),
  KVM_DEASSIGN_DEV_IRQ: vm(assignment),
  KVM_ASSIGN_SET_INTX_MASK: vm(assignment),
  KVM_S390_ENABLE_SIE: {
    fd: ['sys'],
    arch: ['s390'],
    reason: 'arch/s390/kvm/kvm-s390.c, kvm_arch_dev_ioctl',
  },
  KVM_S390_STORE_STATUS: {
    fd: ['vcpu'],
    arch: ['s390'],
    reason: 'arch/s390/kvm/kvm-s390.c, kvm_arch_vcpu_ioctl',
  },
  KVM_S390_SET_INITIAL_PSW: {
    fd: ['vcpu'],
    arch: ['s390'],
    reason: 'arch/s390/kvm/kvm-s390.c, kvm_arch_vcpu_ioctl',
  },
}
