import { catalogue, type Ioctl } from 'kvitest'
import { isX86, type Kind } from './record.ts'

/** Kinds of fd that x86 KVM serves an ioctl on where api.rst says another thing, each seen by a check of its own. */
const corrected: Readonly<Record<string, Kind[]>> = {
  // "vm ioctl" in api.rst.
  KVM_GET_DEBUGREGS: ['vcpu'],
  KVM_SET_DEBUGREGS: ['vcpu'],
  KVM_ENABLE_CAP: ['vm', 'vcpu'],
  // "system" in api.rst.
  KVM_MEMORY_ENCRYPT_REG_REGION: ['vm'],
  KVM_MEMORY_ENCRYPT_UNREG_REGION: ['vm'],
  // "vm ioctl" too in api.rst: of other architectures.
  KVM_SET_DEVICE_ATTR: ['vcpu', 'dev'],
  KVM_GET_DEVICE_ATTR: ['sys', 'vcpu', 'dev'],
  KVM_HAS_DEVICE_ATTR: ['sys', 'vcpu', 'dev'],
}

/** In a header of the catalogue, and no kernel of it serves them: memory slots and device assignment of old. */
const gone = /^KVM_(SET_MEMORY_(REGION|ALIAS)|(DE)?ASSIGN_\w+)$/

/** Kinds of fd that an ioctl is for on x86; none for another architecture's. */
export function kindsOf(ioctl: Ioctl): Kind[] {
  if (gone.test(ioctl.name)) return []
  return corrected[ioctl.name] ?? (isX86(ioctl.arch) ? ioctl.fd : [])
}

/** What each kind of fd answers to a request that it does not know. */
export const unknownAnswer = {
  sys: 'EINVAL',
  vm: 'ENOTTY',
  vcpu: 'EINVAL',
  dev: 'ENOTTY',
  stats: 'ENOTTY',
} as const satisfies Partial<Record<Kind, string>>

export type KvmKind = keyof typeof unknownAnswer

export const kvmKinds = Object.keys(unknownAnswer) as KvmKind[]

/** Ioctls whose request number is known on x86, each number once for each name. */
export const ioctls: Ioctl[] = catalogue.ioctls.filter((one) => one.request !== undefined)
