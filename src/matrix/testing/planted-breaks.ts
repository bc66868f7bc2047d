/** Breaks that are planted in `local`'s KVM, and all that depends on each: everything else stays as it was. */

export interface PlantedBreak {
  /** The letter of a breakage that happened; see docs/matrix.md. */
  letter?: 'A' | 'C' | 'D' | 'K'
  /** As `kvitest plant` takes it. */
  plant: string
  /** Lines of `kvitest abi diff` with and without it, without reasons. */
  profile: string[]
  /** How the cell of the probe of 6.1 differs. */
  points: string[]
  /** Checks of suites/kvm that are red: `FILE > NAME`. */
  checks: string[]
}

/** What the probe says before the strerror of a request that failed; its name may be a macro's expansion. */
const failed = (point: string): string[] => [`-${point}: pass`, `+${point}: fail (not ok)`]

export const plantedBreaks: PlantedBreak[] = [
  {
    letter: 'A',
    plant: 'cpuid-after-run',
    profile: [],
    points: [],
    checks: ['lists > what KVM_GET_CPUID2 gives can be set once more after the vCPU ran'],
  },
  {
    letter: 'C',
    plant: 'thread-of-vm',
    profile: ['threads.create-vm: 0 -> 1'],
    points: [],
    checks: [],
  },
  {
    letter: 'D',
    plant: 'errno=KVM_RUN:EINTR:ENOMEM',
    profile: [],
    points: failed('immediate_exit makes KVM_RUN answer EINTR'),
    checks: [
      'lifetimes > KVM_RUN goes on when the fd of its vCPU is closed',
      'lifetimes > KVM_RUN goes on when the fd of its VM is closed',
      'lifetimes > a child that begins and ends while the vCPU runs leaves it running',
      'run > HLT waits in the kernel when there is an irqchip',
      'run > immediate_exit keeps the vCPU out of the guest',
      'run > immediate_exit completes the exit before',
      'run > a signal ends KVM_RUN with EINTR and exit reason KVM_EXIT_INTR',
      'run > a storm of signals gives nothing but EINTR, and the guest goes on',
      'sync-regs > regs come out of a run that a signal ended',
      'sync-regs > sregs come out of a run that a signal ended',
      'sync-regs > events come out of a run that a signal ended',
      'sync-regs > regs that are dirty are taken',
      'sync-regs > sregs that are dirty are taken',
      'sync-regs > events that are dirty are taken',
      'sync-regs > KVM_RUN clears the bits of what it took',
      'sync-regs > what is written and not dirty is not taken',
      'threads > KVM_GET_REGS of another thread waits for the end of the run',
      'threads > KVM_SET_REGS of another thread waits for the end of the run, and holds',
      'threads > KVM_RUN of another thread waits for the end of the run, and goes on with it',
      'threads > another vCPU answers, and is changed',
      'threads > another vCPU is made, and runs beside it',
      'threads > calls of the VM are answered',
      'threads > a memslot comes and goes, again and again',
      'threads > its memslot gets a dirty log and loses it, again and again',
      'threads > the dirty log has what it wrote since the last one',
      'threads > three threads ask for its registers while signals end its runs: each is answered',
      'vcpu-calls > a signal that the mask lets through ends KVM_RUN with EINTR',
    ],
  },
  {
    letter: 'K',
    plant: 'cpuid-limit=80',
    profile: ['limit.KVM_SET_CPUID2.entries: 256 -> 80'],
    points: [],
    checks: [],
  },
  {
    plant: 'capability-gone=KVM_CAP_XSAVE',
    profile: ['cap.KVM_CAP_XSAVE.sys: 1 -> 0', 'cap.KVM_CAP_XSAVE.vm: 1 -> 0'],
    points: ['KVM_GET_XSAVE gives', 'KVM_SET_XSAVE takes'].flatMap((use) => [
      `-${use} a struct kvm_xsave: pass`,
      `+${use} a struct kvm_xsave: skip (the kernel does not announce KVM_CAP_XSAVE)`,
    ]),
    checks: [],
  },
  {
    plant: 'errno=KVM_CREATE_VCPU:EEXIST:EBUSY',
    profile: [],
    points: [],
    checks: [
      'lifetimes > the id of a vCPU stays taken when its fd is closed',
      'system > a vCPU id is given once',
      'system > vCPUs of one id made by several threads at once: one is made',
      'threads > vCPUs of several ids: all are made',
    ],
  },
  {
    plant: 'refuse=KVM_SET_DEBUGREGS:ENOTTY',
    profile: [
      'flags.KVM_SET_DEBUGREGS.flags: 0x0 -> ENOTTY',
      'ioctl.KVM_SET_DEBUGREGS.vcpu.null: EFAULT -> ENOTTY',
      'ioctl.KVM_SET_DEBUGREGS.vcpu.zero: 0 -> ENOTTY',
    ],
    points: failed('KVM_SET_DEBUGREGS takes a struct kvm_debugregs'),
    checks: [
      'bad-pointer > KVM_SET_DEBUGREGS does not take a pointer to nothing',
      'bad-pointer > KVM_SET_DEBUGREGS takes all 128 bytes of kvm_debugregs',
      'reserved > KVM_SET_DEBUGREGS of a vCPU: each unknown bit of flags is refused',
      'reserved > KVM_SET_DEBUGREGS of a vCPU: ones in reserved are not looked at',
      'roundtrip > DR0: any address comes back',
      'roundtrip > DR1: any address comes back',
      'roundtrip > DR2: any address comes back',
      'roundtrip > DR3: any address comes back',
      'roundtrip > DR7: its low half comes back',
      'state > debug registers come back as they were set',
      'state > flags of debug registers are refused',
      'state > the upper half of DR7 is refused',
      'wrong-fd > KVM_SET_DEBUGREGS is unknown to sys, vm, dev, stats',
    ],
  },
  {
    plant: 'msr-gone=0x174',
    profile: ['msr.index.MSR_SYSENTER_CS: 0x0 -> absent'],
    points: [],
    checks: [],
  },
]
