/** What no check reaches, and why. A reason that no longer applies fails the run: take it out. */
import type { ExitReasonName, IoctlName } from 'kvitest'
import type { Exception } from '../claim.ts'

type Where = Exception['where'][]

/**
 * `code`: documented, but no code of x86 KVM gives it, in no configuration (read in Debian's linux-source-6.1 and -6.12).
 * `host`: there is code, for a CPU, a configuration or a state that the host has not. `suite`: it could be reached.
 */
export type Obstacle = 'code' | 'host' | 'suite'

interface Unreached {
  where: Where
  obstacle: Obstacle
  why: string
}

/** Of errnos that api.rst names; those of ioctls that a host lacks are in absences.ts. */
export const unreachedPairs: ({ ioctl: IoctlName; errnos: string[] } & Unreached)[] = [
  {
    ioctl: 'KVM_GET_SUPPORTED_CPUID',
    errnos: ['ENOMEM'],
    where: [{}],
    obstacle: 'code',
    why: 'kvm_dev_ioctl_get_cpuid() brings a number of entries that is too high down, and answers 0',
  },
  {
    ioctl: 'KVM_GET_EMULATED_CPUID',
    errnos: ['ENOMEM'],
    where: [{}],
    obstacle: 'code',
    why: 'kvm_dev_ioctl_get_cpuid() brings a number of entries that is too high down, and answers 0',
  },
  {
    ioctl: 'KVM_GET_TSC_KHZ',
    errnos: ['EIO'],
    where: [{}],
    obstacle: 'code',
    why: 'kvm_arch_vcpu_ioctl() gives the frequency, and does not look whether the TSC is stable',
  },
  {
    ioctl: 'KVM_SET_PMU_EVENT_FILTER',
    errnos: ['EBUSY'],
    where: [{}],
    obstacle: 'code',
    why: 'kvm_vm_ioctl_set_pmu_event_filter() answers ENOMEM without memory, and never EBUSY',
  },
  {
    ioctl: 'KVM_CREATE_DEVICE',
    errnos: ['EEXIST'],
    where: [{}],
    obstacle: 'code',
    why: 'kvm_vfio_create(), the one device of x86, answers EBUSY',
  },
  {
    ioctl: 'KVM_SET_DEVICE_ATTR',
    errnos: ['EPERM'],
    where: [{}],
    obstacle: 'code',
    why: 'EPERM is for devices without set_attr; VFIO, the one of x86, has it',
  },
  {
    ioctl: 'KVM_SET_SIGNAL_MASK',
    errnos: ['EINTR'],
    where: [{}],
    obstacle: 'code',
    why: 'it is KVM_RUN that answers so',
  },
  {
    ioctl: 'KVM_GET_VCPU_EVENTS',
    errnos: ['EINVAL'],
    where: [{}],
    obstacle: 'code',
    why: "exception.has_esr is arm64's",
  },
  ...(['KVM_GET_VCPU_EVENTS', 'KVM_SET_VCPU_EVENTS'] as const).map((ioctl) => ({
    ioctl,
    errnos: ['ENOEXEC'],
    where: [{}],
    obstacle: 'code' as const,
    why: "that a vCPU has to be initialized is arm64's",
  })),
  {
    ioctl: 'KVM_GET_ONE_REG',
    errnos: ['ENOENT'],
    where: [{ from: '6.18' }],
    obstacle: 'code',
    why: 'x86 answers EINVAL to registers that it has not',
  },
  {
    ioctl: 'KVM_SET_ONE_REG',
    errnos: ['ENOENT'],
    where: [{ from: '6.18' }],
    obstacle: 'code',
    why: 'x86 answers EINVAL to registers that it has not',
  },
  {
    ioctl: 'KVM_GET_REG_LIST',
    errnos: ['E2BIG'],
    where: [{ accelerator: 'tcg' }, { accelerator: 'software' }],
    obstacle: 'host',
    why: 'its CPU has no shadow stacks, and so no registers by number',
  },
  {
    ioctl: 'KVM_GET_STATS_FD',
    errnos: ['ENOMEM'],
    where: [{}],
    obstacle: 'suite',
    why: 'nothing here lets an allocation of a few bytes fail (CONFIG_FAILSLAB is off)',
  },
]

export const unreachedExits: ({ exits: ExitReasonName[]; sometimes?: true } & Unreached)[] = [
  {
    exits: ['KVM_EXIT_UNKNOWN'],
    where: [{ before: '6.8' }, { accelerator: 'software' }],
    obstacle: 'host',
    why: 'before ee605e315633 only SGX of Intel sets it; here no KVM_RUN fails after it',
  },
  {
    exits: ['KVM_EXIT_EXCEPTION'],
    where: [{}],
    obstacle: 'host',
    why: 'only handle_exception_nmi() of kvm_intel sets it',
  },
  { exits: ['KVM_EXIT_NMI'], where: [{}], obstacle: 'code', why: 'no code of x86 sets it' },
  {
    exits: ['KVM_EXIT_NOTIFY', 'KVM_EXIT_X86_BUS_LOCK'],
    where: [{}],
    obstacle: 'host',
    why: 'only kvm_intel sets it, on a recent CPU',
  },
  { exits: ['KVM_EXIT_AP_RESET_HOLD'], where: [{}], obstacle: 'host', why: 'needs SEV-ES' },
  {
    exits: ['KVM_EXIT_TDX', 'KVM_EXIT_SNP_REQ_CERTS'],
    where: [{}],
    obstacle: 'host',
    why: 'needs TDX or SEV-SNP',
  },
  {
    exits: ['KVM_EXIT_MEMORY_FAULT'],
    where: [{}],
    obstacle: 'host',
    why: 'needs private memory, which no kernel here is built with',
  },
  {
    exits: ['KVM_EXIT_XEN'],
    where: [{ without: 'CONFIG_KVM_XEN' }],
    obstacle: 'host',
    why: 'built without CONFIG_KVM_XEN',
  },
  {
    exits: ['KVM_EXIT_HYPERV', 'KVM_EXIT_SYSTEM_EVENT'],
    where: [{ from: '6.8', without: 'CONFIG_KVM_HYPERV' }],
    obstacle: 'host',
    why: 'built without CONFIG_KVM_HYPERV',
  },
  {
    exits: ['KVM_EXIT_HYPERCALL', 'KVM_EXIT_FAIL_ENTRY', 'KVM_EXIT_SET_TPR', 'KVM_EXIT_TPR_ACCESS'],
    where: [{ accelerator: 'software' }],
    obstacle: 'host',
    why: 'its exceptions in exits.test.ts say what comes instead',
  },
  {
    exits: ['KVM_EXIT_IOAPIC_EOI'],
    where: [{ accelerator: 'software' }],
    obstacle: 'host',
    why: 'it does not tell user space the end of an interrupt',
  },
  {
    exits: ['KVM_EXIT_DIRTY_RING_FULL'],
    where: [{ accelerator: 'software' }],
    obstacle: 'suite',
    why: 'its emulator writes past a full ring now and then',
    sometimes: true,
  },
]

/** Exit reasons that x86 does not have. */
export const otherArchitectures =
  /^KVM_EXIT_(S390_\w+|DCR|OSI|PAPR_HCALL|WATCHDOG|EPR|ARM_\w+|RISCV_\w+|LOONGARCH_\w+)$/
