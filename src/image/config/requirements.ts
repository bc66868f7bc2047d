/** What a kernel needs in its configuration for each of the three parts it can play. */

/** A guest of ours; the kernel of a lab; a kernel whose failures can be told apart and explained. */
export type Purpose = 'virtio' | 'kvm' | 'debug'

export const purposes: readonly Purpose[] = ['virtio', 'kvm', 'debug']

export interface Requirement {
  /** Symbol without `CONFIG_`; the first of several of which one is enough. */
  symbol: string
  or?: readonly string[]
  /** `y` built in, `m` built in or a module, `n` not set. */
  want: 'y' | 'm' | 'n'
  /** Without what is needed nothing works; what is useful makes more work, or makes it better. */
  level: 'needed' | 'useful'
  /** Name of the module, where it may be one. */
  module?: string
  why: string
}

const needed = (symbol: string, why: string): Requirement => ({ symbol, want: 'y', level: 'needed', why })
const useful = (symbol: string, why: string): Requirement => ({ symbol, want: 'y', level: 'useful', why })
const driver = (symbol: string, module: string, why: string): Requirement => ({
  symbol,
  want: 'm',
  level: 'needed',
  module,
  why,
})
const usefulDriver = (symbol: string, module: string, why: string): Requirement => ({
  ...driver(symbol, module, why),
  level: 'useful',
})

/** What our machine and QEMU's have in common: an initramfs as root, PCI, a serial console. */
const machine: readonly Requirement[] = [
  needed('BLK_DEV_INITRD', 'the root file system is an initramfs'),
  needed('BINFMT_ELF', '/init is an ELF program'),
  needed('BINFMT_SCRIPT', 'scripts start with #!'),
  needed('DEVTMPFS', '/dev'),
  needed('TMPFS', '/tmp and /run'),
  needed('PROC_FS', '/proc'),
  needed('SYSFS', '/sys, where virtio ports are found by name'),
  needed('PRINTK', 'the kernel log'),
  needed('SERIAL_8250', 'the console is a 16550'),
  needed('SERIAL_8250_CONSOLE', 'the kernel log goes to the 16550'),
  needed('ACPI', 'the machine has no MP tables'),
  needed('PCI', 'virtio devices are on PCI'),
  needed('PCI_MSI', 'virtio queues interrupt by MSI-X'),
  driver('VIRTIO_PCI', 'virtio_pci', 'virtio devices are on PCI'),
  driver('VIRTIO_CONSOLE', 'virtio_console', 'the agent and the lab server talk over a virtio port'),
  { symbol: 'CMDLINE_OVERRIDE', want: 'n', level: 'needed', why: 'the kernel would ignore our command line' },
]

const guest: readonly Requirement[] = [
  ...machine,
  useful('UNIX98_PTYS', 'an interactive shell'),
  useful('PVH', 'entry without a decompressor, which halves an emulated boot'),
  useful('KVM_GUEST', 'the clock and interrupts of a paravirtual guest'),
  useful('PRINTK_TIME', 'splats are told from other text by their time stamp'),
  useful('RTC_DRV_CMOS', 'the time of day at boot'),
  usefulDriver('PVPANIC_MMIO', 'pvpanic_mmio', 'a panic is known at once, without reading the log'),
  usefulDriver('HW_RANDOM_VIRTIO', 'virtio_rng', 'entropy from the host; virtio-rng under test'),
  { symbol: 'MODULE_SIG_FORCE', want: 'n', level: 'useful', why: 'modules of tests are not signed' },
]

const lab: readonly Requirement[] = [
  ...machine,
  driver('KVM', 'kvm', '/dev/kvm'),
  {
    ...driver('KVM_AMD', 'kvm_amd', 'SVM is what QEMU emulates; VMX where it nests on Intel'),
    or: ['KVM_INTEL'],
  },
  needed('FUTEX', 'Node runs in the lab'),
  needed('EPOLL', 'Node runs in the lab'),
  needed('EVENTFD', 'Node runs in the lab'),
  needed('MEMFD_CREATE', 'guest memory and its copy-on-write forks'),
  needed('SHMEM', 'guest memory and its copy-on-write forks'),
  useful('HIGH_RES_TIMERS', "guests' timers"),
  useful('TRANSPARENT_HUGEPAGE', 'a fork takes one fault for 2 MiB of what it only reads'),
  usefulDriver('HW_RANDOM_VIRTIO', 'virtio_rng', 'entropy for the lab'),
  usefulDriver('KVM_INTEL', 'kvm_intel', 'labs that nest on Intel'),
]

const debug: readonly Requirement[] = [
  needed('BUG', 'BUG() and WARN() report at all'),
  needed('KALLSYMS', 'symbols in reports'),
  needed('DEBUG_KERNEL', 'the checks below depend on it'),
  needed('DETECT_HUNG_TASK', 'verdict hang: tasks that never wake'),
  needed('SOFTLOCKUP_DETECTOR', 'verdict hang: a CPU that never schedules'),
  useful('DEBUG_BUGVERBOSE', 'file and line in reports'),
  useful('KALLSYMS_ALL', 'symbols of data in reports'),
  useful('STACKTRACE', 'stack traces'),
  useful('HARDLOCKUP_DETECTOR', 'a CPU that takes no interrupts'),
  useful('WQ_WATCHDOG', 'work queues that stand still'),
  { symbol: 'KASAN', or: ['KFENCE'], want: 'y', level: 'useful', why: 'use after free and out of bounds' },
  useful('UBSAN', 'undefined behaviour'),
  useful('PROVE_LOCKING', 'lock order (lockdep)'),
  useful('DEBUG_ATOMIC_SLEEP', 'sleeping where it is not allowed'),
  useful('DEBUG_LIST', 'corrupt lists'),
  useful('FAULT_INJECTION', 'failing allocations on purpose'),
  {
    symbol: 'DEBUG_INFO_BTF',
    or: ['DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT', 'DEBUG_INFO_DWARF5', 'DEBUG_INFO_DWARF4'],
    want: 'y',
    level: 'useful',
    why: 'types and lines for a debugger',
  },
  useful('FUNCTION_TRACER', 'ftrace'),
  useful('KPROBES', 'probes'),
  useful('MAGIC_SYSRQ', 'stacks of all tasks on demand'),
]

export const requirements: Readonly<Record<Purpose, readonly Requirement[]>> = {
  virtio: guest,
  kvm: lab,
  debug,
}
