/** What no check reaches, and why. A reason that no longer applies fails the run: take it out. */
import type { ExitReasonName, IoctlName } from 'kvitest'
import type { Exception } from '../claim.ts'

type Where = Exception['where'][]

/** Of errnos that api.rst names; those of ioctls that a host lacks are in absences.ts. */
export const unreachedPairs: { ioctl: IoctlName; errnos: string[]; where: Where; why: string }[] = [
  {
    ioctl: 'KVM_GET_SUPPORTED_CPUID',
    errnos: ['ENOMEM'],
    where: [{}],
    why: 'a number of entries that is too high is brought down, and the answer is 0',
  },
  {
    ioctl: 'KVM_GET_EMULATED_CPUID',
    errnos: ['ENOMEM'],
    where: [{}],
    why: 'a number of entries that is too high is brought down, and the answer is 0',
  },
  { ioctl: 'KVM_GET_TSC_KHZ', errnos: ['EIO'], where: [{}], why: 'no host here has an unstable TSC' },
  {
    ioctl: 'KVM_SET_PMU_EVENT_FILTER',
    errnos: ['EBUSY'],
    where: [{}],
    why: 'only a host without memory says so',
  },
  {
    ioctl: 'KVM_CREATE_DEVICE',
    errnos: ['EEXIST'],
    where: [{}],
    why: 'the one device of x86, VFIO, answers EBUSY',
  },
  {
    ioctl: 'KVM_SET_DEVICE_ATTR',
    errnos: ['EPERM'],
    where: [{}],
    why: 'no device of x86 has such attributes',
  },
  { ioctl: 'KVM_INTERRUPT', errnos: ['EEXIST'], where: [{}], why: 'x86 puts the new one in its place' },
  { ioctl: 'KVM_SET_SIGNAL_MASK', errnos: ['EINTR'], where: [{}], why: 'it is KVM_RUN that answers so' },
  { ioctl: 'KVM_GET_VCPU_EVENTS', errnos: ['EINVAL'], where: [{}], why: "exception.has_esr is arm64's" },
  {
    ioctl: 'KVM_GET_ONE_REG',
    errnos: ['ENOENT'],
    where: [{ from: '6.18' }],
    why: 'x86 answers EINVAL to registers that it has not',
  },
  {
    ioctl: 'KVM_SET_ONE_REG',
    errnos: ['ENOENT'],
    where: [{ from: '6.18' }],
    why: 'x86 answers EINVAL to registers that it has not',
  },
  {
    ioctl: 'KVM_GET_STATS_FD',
    errnos: ['ENOMEM', 'EMFILE'],
    where: [{}],
    why: 'the process that makes the calls serves other checks and needs its memory and fds',
  },
]

export const unreachedExits: { exits: ExitReasonName[]; where: Where; why: string; sometimes?: true }[] = [
  { exits: ['KVM_EXIT_UNKNOWN'], where: [{}], why: 'an exit of the CPU that KVM does not know: on Intel' },
  { exits: ['KVM_EXIT_EXCEPTION', 'KVM_EXIT_NMI'], where: [{}], why: 'no current backend makes it' },
  { exits: ['KVM_EXIT_NOTIFY', 'KVM_EXIT_X86_BUS_LOCK'], where: [{}], why: 'needs a recent Intel CPU' },
  { exits: ['KVM_EXIT_AP_RESET_HOLD'], where: [{}], why: 'needs SEV-ES' },
  {
    exits: ['KVM_EXIT_MEMORY_FAULT'],
    where: [{}],
    why: 'needs private memory, which no kernel here is built with',
  },
  {
    exits: ['KVM_EXIT_XEN'],
    where: [{ before: '6.2' }, { accelerator: 'software' }],
    why: 'built without CONFIG_KVM_XEN',
  },
  {
    exits: ['KVM_EXIT_HYPERV', 'KVM_EXIT_SYSTEM_EVENT'],
    where: [{ accelerator: 'software' }],
    why: 'built without CONFIG_KVM_HYPERV',
  },
  {
    exits: ['KVM_EXIT_HYPERCALL', 'KVM_EXIT_FAIL_ENTRY', 'KVM_EXIT_SET_TPR', 'KVM_EXIT_TPR_ACCESS'],
    where: [{ accelerator: 'software' }],
    why: 'its exceptions in exits.test.ts say what comes instead',
  },
  {
    exits: ['KVM_EXIT_IOAPIC_EOI'],
    where: [{ accelerator: 'software' }],
    why: 'it does not tell user space the end of an interrupt',
  },
  {
    exits: ['KVM_EXIT_DIRTY_RING_FULL'],
    where: [{ accelerator: 'software' }],
    why: 'its emulator writes past a full ring now and then',
    sometimes: true,
  },
]

/** Exit reasons that x86 does not have. */
export const otherArchitectures =
  /^KVM_EXIT_(S390_\w+|DCR|OSI|PAPR_HCALL|WATCHDOG|EPR|ARM_\w+|RISCV_\w+|LOONGARCH_\w+)$/
