/**
 * Where header and api.rst disagree and we know why. The generator fails for every other disagreement, and for one
 * listed here that is gone.
 */
export interface KnownDisagreement {
  /** As the generator says it. */
  line: string
  /** Versions of the catalogue that have it. */
  versions: readonly string[]
  reason: string
}

const all = ['6.1', '6.12', '7.3']

export const knownDisagreements: readonly KnownDisagreement[] = [
  {
    line: 'KVM_REINJECT_CONTROL: api.rst 4.99 takes struct kvm_reinject_control, the header no argument',
    versions: all,
    reason: 'the number was made with _IO by mistake and is ABI now; x86 copies the structure',
  },
  {
    line: 'KVM_PPC_GET_COMPAT_CAPS: api.rst 4.145 takes struct kvm_ppc_compat_caps, the header no argument',
    versions: ['7.3'],
    reason: 'an ioctl of PowerPC made with _IO',
  },
  {
    line: 'KVM_ARM_SET_DEVICE_ADDR: api.rst 4.85 takes struct kvm_arm_device_address, the header struct kvm_arm_device_addr',
    versions: all,
    reason: 'api.rst spells the name of the structure wrong',
  },
  ...['4.31 KVM_GET_VCPU_EVENTS', '4.32 KVM_SET_VCPU_EVENTS'].map((one) => ({
    line: `${one.split(' ')[1]}: api.rst ${one.split(' ')[0]} takes struct kvm_vcpu_event, the header struct kvm_vcpu_events`,
    versions: ['6.1'],
    reason: 'api.rst spells the name of the structure wrong; corrected later',
  })),
  ...['KVM_PPC_RADIX_MMU', 'KVM_PPC_HASH_MMU_V3'].map((one) => ({
    line: `KVM_PPC_CONFIGURE_V3_MMU: api.rst 4.100 asks for ${one.replace('KVM_', 'KVM_CAP_')}, the header does not have it`,
    versions: ['6.1'],
    reason: 'named KVM_CAP_PPC_MMU_RADIX and KVM_CAP_PPC_MMU_HASH_V3; api.rst was corrected later',
  })),
  {
    line: 'KVM_PPC_GET_RMMU_INFO: api.rst 4.101 asks for KVM_CAP_PPC_RADIX_MMU, the header does not have it',
    versions: ['6.1'],
    reason: 'named KVM_CAP_PPC_MMU_RADIX; api.rst was corrected later',
  },
  ...['8.3 KVM_CAP_PPC_RADIX_MMU', '8.4 KVM_CAP_PPC_HASH_MMU_V3'].map((one) => ({
    line: `${one.split(' ')[1]}: api.rst ${one.split(' ')[0]} documents it, the header does not have it`,
    versions: ['6.1'],
    reason: 'named KVM_CAP_PPC_MMU_RADIX and KVM_CAP_PPC_MMU_HASH_V3; api.rst was corrected later',
  })),
  {
    line: 'KVM_CAP_PPC_MULTITCE: api.rst 8.31 documents it, the header does not have it',
    versions: ['6.1', '6.12'],
    reason: 'named KVM_CAP_SPAPR_MULTITCE; api.rst was corrected later',
  },
  ...['4.79 KVM_CREATE_DEVICE', '4.80 KVM_SET_DEVICE_ATTR', '4.80 KVM_GET_DEVICE_ATTR'].map((one) => ({
    line: `${one.split(' ')[1]}: api.rst ${one.split(' ')[0]} has no architectures field`,
    versions: ['6.1'],
    reason: 'not written; all architectures with devices have it',
  })),
  {
    line: 'KVM_HAS_DEVICE_ATTR: api.rst 4.81 has no architectures field',
    versions: all,
    reason: 'not written; all architectures with devices have it',
  },
  {
    line: 'KVM_ARM_VCPU_FINALIZE: api.rst 4.119 has no capability field',
    versions: all,
    reason: 'not written; it comes with the features that it finalizes, such as KVM_CAP_ARM_SVE',
  },
  {
    line: 'KVM_GET_STATS_FD: api.rst 4.133 asks for KVM_CAP_STATS_BINARY_FD, the header does not have it',
    versions: all,
    reason: 'named KVM_CAP_BINARY_STATS_FD',
  },
  {
    line: 'KVM_EXIT_PAPR: api.rst 5 names it, the header does not have it',
    versions: all,
    reason: 'named KVM_EXIT_PAPR_HCALL',
  },
]
