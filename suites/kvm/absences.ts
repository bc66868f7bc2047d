import type { IoctlName } from 'kvitest'
import type { Exception } from './claim.ts'

/** Ioctls that a host does not serve, and why: its kernel is older, or was built or runs without them. */
export interface Absence {
  ioctls: IoctlName[]
  /** One of these. */
  where: Exception['where'][]
  why: string
  /** It takes its argument before it finds that. */
  readsFirst?: true
  /** No x86 KVM of these kernels has code for them, in no configuration; api.rst documents them all the same. */
  noCode?: true
}

export const absences: Absence[] = [
  {
    ioctls: [
      'KVM_XEN_HVM_CONFIG',
      'KVM_XEN_HVM_GET_ATTR',
      'KVM_XEN_HVM_SET_ATTR',
      'KVM_XEN_HVM_EVTCHN_SEND',
      'KVM_XEN_VCPU_GET_ATTR',
      'KVM_XEN_VCPU_SET_ATTR',
    ],
    where: [{ without: 'CONFIG_KVM_XEN' }],
    why: 'built without CONFIG_KVM_XEN',
  },
  {
    ioctls: ['KVM_HYPERV_EVENTFD', 'KVM_GET_SUPPORTED_HV_CPUID'],
    where: [{ from: '6.8', without: 'CONFIG_KVM_HYPERV' }],
    why: 'built without CONFIG_KVM_HYPERV',
  },
  {
    ioctls: ['KVM_GET_NESTED_STATE', 'KVM_SET_NESTED_STATE'],
    where: [{ accelerator: 'software' }],
    why: 'its guests have no virtualisation of their own',
  },
  {
    ioctls: ['KVM_SMI'],
    where: [{ from: '6.2', without: 'CONFIG_KVM_SMM' }],
    why: 'built without CONFIG_KVM_SMM',
  },
  {
    ioctls: ['KVM_GET_ONE_REG', 'KVM_SET_ONE_REG', 'KVM_GET_REG_LIST'],
    where: [{ before: '6.18' }],
    why: 'x86 has registers by number since Linux 6.18, whatever api.rst says before',
    noCode: true,
  },
  {
    ioctls: ['KVM_CREATE_GUEST_MEMFD'],
    where: [{ before: '6.18' }],
    why: 'Linux 6.8 has it; until 6.18 only kernels built for private memory, which the cloud kernels are not',
  },
  {
    ioctls: ['KVM_SET_USER_MEMORY_REGION2'],
    where: [{ before: '6.8' }],
    why: 'since Linux 6.8',
  },
  { ioctls: ['KVM_PRE_FAULT_MEMORY'], where: [{ before: '6.11' }], why: 'since Linux 6.11' },
  {
    ioctls: ['KVM_SET_MEMORY_ATTRIBUTES'],
    where: [{}],
    why: 'no kernel here is built with CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES',
  },
  {
    ioctls: ['KVM_MEMORY_ENCRYPT_OP'],
    where: [{}],
    why: 'no host here has SEV or TDX',
  },
  {
    ioctls: ['KVM_MEMORY_ENCRYPT_REG_REGION', 'KVM_MEMORY_ENCRYPT_UNREG_REGION'],
    where: [{}],
    why: 'no host here has SEV or TDX',
    readsFirst: true,
  },
  {
    ioctls: ['KVM_SET_MEMORY_REGION', 'KVM_SET_MEMORY_ALIAS'],
    where: [{}],
    why: 'in the documentation of 6.1 only; no kernel of the catalogue serves them',
    noCode: true,
  },
]

/** Exceptions for checks of an ioctl: `outcome` where it is absent. */
export function exceptionsWhereAbsent(ioctl: string, outcome: unknown): Exception[] {
  return absences
    .filter((one) => (one.ioctls as string[]).includes(ioctl) && !one.readsFirst)
    .flatMap(({ where, why }) => where.map((place) => ({ where: place, outcome, why })))
}
