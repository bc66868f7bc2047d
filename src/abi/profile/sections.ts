/** Which part of a profile a key belongs to. */
import { isSynthetic } from './msr-names.ts'
import type { Entries } from './session.ts'

/** What the CPU, its number, or QEMU in its place decides as well as KVM's code. */
const machineKeys: RegExp[] = [
  /^cpuid\./,
  /^state\.KVM_GET_(TSC_KHZ|XSAVE|XCRS|NESTED_STATE)\b/,
  // EDX after reset is the CPU's family, model and stepping.
  /^state\.KVM_GET_REGS\.rdx$/,
  /^state\.KVM_X86_GET_MCE_CAP_SUPPORTED$/,
  // The number of local vector table entries, in it the one for machine checks of Intel's CPUs.
  /^state\.KVM_GET_LAPIC\.(0x030|0x2f0)$/,
  new RegExp(
    `^cap\\.KVM_CAP_(${[
      'NR_VCPUS',
      'XSAVE2',
      'XCRS',
      'MCE',
      'TSC_CONTROL',
      'VM_TSC_CONTROL',
      'TSC_DEADLINE_TIMER',
      'NESTED_STATE',
      'PMU_CAPABILITY',
      'X86_DISABLE_EXITS',
      'X86_BUS_LOCK_EXIT',
      'X86_NOTIFY_VMEXIT',
      'X86_SMM',
      'SMALLER_MAXPHYADDR',
      'SGX_ATTRIBUTE',
      'HYPERV_\\w+',
      'VM_TYPES',
      'VM_\\w+_ENC_CONTEXT_FROM',
      'PTP_KVM',
      'ADJUST_CLOCK',
    ].join('|')})\\.`,
  ),
  /^(flags\.KVM_ENABLE_CAP|enable)\.KVM_CAP_(X86_DISABLE_EXITS|X86_BUS_LOCK_EXIT|X86_NOTIFY_VMEXIT|PMU_CAPABILITY|SGX_ATTRIBUTE|HYPERV_\w+)\b/,
  /^flags\.KVM_(CREATE_VM\.type|SET_CLOCK\.flags)$/,
  /^ioctl\.KVM_MEMORY_ENCRYPT/,
]

/** Values that are a time. Known, so that two dumps which happen to agree are none the wiser. */
const timeKeys: RegExp[] = [
  /^msr\.\w+\.MSR_(TSC|HV_VP_RUNTIME|HV_TIME_REF_COUNT|HV_TSC_FREQUENCY|HV_APIC_FREQUENCY|KVM_(WALL_CLOCK|SYSTEM_TIME)\w*)$/,
  /^state\.KVM_GET_PIT2\..*count_load_time$/,
  // Calibrated at every boot.
  /^state\.KVM_GET_TSC_KHZ\./,
  // Of the CPU that the process happens to run on.
  /^cpuid\.\w+\.0x1\.ebx$/,
  /^cpuid\.\w+\.(0xb|0x1f)\.0x[0-9a-f]+\.edx$/,
  /^cpuid\.\w+\.0x8000001e\.(eax|ebx|ecx)$/,
  // The clock's frequency, that KVM's own leaf and the TSC's give.
  /^cpuid\.\w+\.(0x15|0x16|0x40000010)\./,
]

export function isMachineKey(key: string): boolean {
  const msr = /^msr\.\w+\.(\w+)$/.exec(key)?.[1]
  if (msr !== undefined) return !isSynthetic(msr)
  return machineKeys.some((pattern) => pattern.test(key))
}

export interface Sections {
  abi: Entries
  machine: Entries
  volatile: string[]
}

/** Sorts what two rounds of probes found into the parts of a profile. */
export function sectionsOf(first: Entries, second: Entries): Sections {
  const sections: Sections = { abi: {}, machine: {}, volatile: [] }
  for (const key of new Set([...Object.keys(first), ...Object.keys(second)])) {
    const value = first[key]
    const isTime = timeKeys.some((pattern) => pattern.test(key)) && !isRefusal(value)
    if (value === undefined || value !== second[key] || isTime) sections.volatile.push(key)
    else sections[isMachineKey(key) ? 'machine' : 'abi'][key] = value
  }
  return sections
}

/** That there is no such value is none that changes. */
function isRefusal(value: string | number | undefined): boolean {
  return typeof value === 'string' && !value.startsWith('0x')
}
