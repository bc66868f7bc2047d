/** The class of a difference: a table of rules, read from the top, the first that applies. */
import type { ProfileClass } from './diff.ts'
import type { Value } from './session.ts'

/** How a value changed, as far as it can be told without knowing the key. */
export type ChangeKind =
  | 'appeared'
  | 'went'
  /** An answer became the error of a request that nobody knows, or the other way round. */
  | 'ioctl went'
  | 'ioctl came'
  /** A success became an error, or the other way round. */
  | 'fails now'
  | 'works now'
  | 'another error'
  /** Numbers and masks. */
  | 'bits lost'
  | 'bits gained'
  | 'to zero'
  | 'from zero'
  | 'smaller'
  | 'larger'
  | 'another value'

interface Rule {
  keys: RegExp
  kinds?: ChangeKind[]
  class: ProfileClass
  reason: string
}

/** Capabilities whose value is a mask. */
const maskCaps = new RegExp(
  `^cap\\.KVM_CAP_(${[
    'ADJUST_CLOCK',
    'DISABLE_QUIRKS2',
    'EXIT_HYPERCALL',
    'GUEST_MEMFD_FLAGS',
    'MANUAL_DIRTY_LOG_PROTECT2',
    'MEMORY_ATTRIBUTES',
    'PMU_CAPABILITY',
    'SET_GUEST_DEBUG2',
    'SYNC_REGS',
    'VM_TYPES',
    'X2APIC_API',
    'X86_BUS_LOCK_EXIT',
    'X86_DISABLE_EXITS',
    'X86_USER_SPACE_MSR',
    'XEN_HVM',
  ].join('|')})\\.`,
)

const rules: Rule[] = [
  {
    keys: /^cap\./,
    kinds: ['appeared', 'from zero', 'works now'],
    class: 'additive',
    reason: 'a capability that is new',
  },
  { keys: /^cap\./, kinds: ['went'], class: 'info', reason: 'a number without a name answers no more' },
  {
    keys: /^cap\./,
    kinds: ['to zero', 'fails now'],
    class: 'breaking',
    reason: 'a capability is gone: who needs it stops',
  },
  { keys: maskCaps, kinds: ['bits gained'], class: 'additive', reason: 'a bit that can be asked for is new' },
  { keys: maskCaps, class: 'breaking', reason: 'a bit that could be asked for is gone' },
  { keys: /^cap\.KVM_CAP_NR_VCPUS\./, class: 'info', reason: 'a recommendation' },
  { keys: /^cap\./, kinds: ['smaller', 'bits lost'], class: 'breaking', reason: 'a limit is lower' },
  { keys: /^cap\./, kinds: ['larger', 'bits gained'], class: 'additive', reason: 'a limit is higher' },

  { keys: /^ioctl\./, kinds: ['ioctl went', 'went'], class: 'breaking', reason: 'the ioctl is gone' },
  { keys: /^ioctl\./, kinds: ['ioctl came', 'appeared'], class: 'additive', reason: 'the ioctl is new' },
  {
    keys: /^(ioctl|enable)\./,
    kinds: ['fails now'],
    class: 'tightened',
    reason: 'what was accepted is refused',
  },
  {
    keys: /^(ioctl|enable)\./,
    kinds: ['works now'],
    class: 'additive',
    reason: 'what was refused is accepted',
  },
  {
    keys: /^(ioctl|enable)\./,
    kinds: ['another error'],
    class: 'info',
    reason: 'refused as before, with another errno: only who tells errnos apart sees it',
  },
  {
    keys: /^enable\./,
    kinds: ['ioctl went', 'went'],
    class: 'breaking',
    reason: 'it cannot be enabled any more',
  },
  {
    keys: /^enable\./,
    kinds: ['ioctl came', 'appeared'],
    class: 'additive',
    reason: 'it can be enabled now',
  },

  { keys: /^flags\./, kinds: ['ioctl went', 'went'], class: 'breaking', reason: 'the ioctl is gone' },
  { keys: /^flags\./, kinds: ['ioctl came', 'appeared'], class: 'additive', reason: 'the ioctl is new' },
  {
    keys: /^flags\./,
    kinds: ['bits lost', 'to zero'],
    class: 'tightened',
    reason: 'a bit that was accepted is refused',
  },
  {
    keys: /^flags\./,
    kinds: ['bits gained', 'from zero'],
    class: 'additive',
    reason: 'a bit that was refused is accepted',
  },

  {
    keys: /^exit\..*\.rip$/,
    class: 'breaking',
    reason: 'RIP at the exit is what tools resume from and save',
  },
  { keys: /^exit\./, kinds: ['appeared', 'went'], class: 'info', reason: 'it is not there to compare' },
  { keys: /^exit\./, class: 'breaking', reason: 'KVM_RUN leaves the guest for another reason' },

  {
    keys: /^cpuid\.supported\./,
    kinds: ['appeared', 'from zero', 'bits gained'],
    class: 'additive',
    reason: 'KVM offers more to guests',
  },
  {
    keys: /^cpuid\.supported\./,
    kinds: ['went', 'to zero', 'bits lost', 'fails now'],
    class: 'breaking',
    reason: 'KVM offers less: a guest that was started with it cannot move here',
  },
  {
    keys: /^cpuid\.(emulated|hyperv)\./,
    kinds: ['appeared', 'from zero', 'bits gained'],
    class: 'additive',
    reason: 'KVM emulates more',
  },
  {
    keys: /^cpuid\.(emulated|hyperv)\./,
    kinds: ['went', 'to zero', 'bits lost'],
    class: 'breaking',
    reason: 'KVM emulates less',
  },
  { keys: /^cpuid\./, class: 'info', reason: 'another value of the same leaf: a number, not a feature' },

  { keys: /^msr\.index\./, kinds: ['appeared'], class: 'additive', reason: 'one MSR more to save' },
  {
    keys: /^msr\.index\./,
    kinds: ['went'],
    class: 'tightened',
    reason: 'one MSR less to save: fine for who goes by the list, not for who names it',
  },
  {
    keys: /^msr\.feature\./,
    kinds: ['appeared', 'from zero', 'bits gained'],
    class: 'additive',
    reason: 'a feature more',
  },
  {
    keys: /^msr\.feature\./,
    kinds: ['went', 'to zero', 'bits lost'],
    class: 'breaking',
    reason: 'a feature less',
  },
  { keys: /^msr\./, class: 'info', reason: 'another value after reset' },

  {
    keys: /^state\./,
    kinds: ['ioctl went', 'went'],
    class: 'breaking',
    reason: 'the state cannot be read any more',
  },
  {
    keys: /^state\./,
    kinds: ['ioctl came', 'appeared'],
    class: 'additive',
    reason: 'there is more state to read',
  },
  { keys: /^state\./, kinds: ['fails now'], class: 'breaking', reason: 'the state cannot be read any more' },
  { keys: /^state\./, class: 'info', reason: 'what nobody has set starts with another value' },
  {
    keys: /^(limit|threads)\./,
    kinds: ['appeared', 'went'],
    class: 'info',
    reason: 'it is not there to compare',
  },
  {
    keys: /^limit\./,
    kinds: ['smaller', 'fails now', 'to zero', 'bits lost'],
    class: 'tightened',
    reason: 'a limit is lower: what was accepted is refused',
  },
  { keys: /^limit\./, class: 'additive', reason: 'a limit is higher' },
  {
    keys: /^threads\./,
    kinds: ['larger', 'from zero', 'bits gained'],
    class: 'breaking',
    reason:
      'the kernel puts a thread into the process: who must have one only, to fork or to enter a jail, stops',
  },
  { keys: /^threads\./, class: 'info', reason: 'fewer threads of the kernel in the process' },
  { keys: /^size\./, class: 'info', reason: 'told by the kernel, and to be asked for' },

  {
    keys: /^(device|attr)\./,
    kinds: ['works now'],
    class: 'additive',
    reason: 'a device or attribute that is new',
  },
  {
    keys: /^(device|attr)\./,
    kinds: ['fails now', 'ioctl went'],
    class: 'breaking',
    reason: 'a device or attribute is gone',
  },
  { keys: /^attr\./, class: 'info', reason: 'not there before and now, with another errno' },

  { keys: /^stats\./, kinds: ['appeared'], class: 'additive', reason: 'a statistic that is new' },
  {
    keys: /^stats\./,
    kinds: ['went'],
    class: 'breaking',
    reason: 'a statistic is gone: who reads it by name finds none',
  },
  { keys: /^stats\./, class: 'info', reason: 'another kind or unit of the same statistic' },
]

/** A VM says so of an ioctl that it does not know. */
const unknownIoctl = 'ENOTTY'
/** /dev/kvm and a vCPU say EINVAL; only where nothing else could be wrong, because there is no argument, is that the same. */
const saysInvalid = /^ioctl\.\w+\.(sys|vcpu)\.null$/

function numberOf(value: Value): bigint | undefined {
  if (typeof value === 'number') return BigInt(value)
  return /^0x[0-9a-f]+$/.test(value) ? BigInt(value) : undefined
}

export function changeKind(key: string, before: Value | undefined, after: Value | undefined): ChangeKind {
  if (before === undefined) return after === unknownIoctl ? 'another error' : 'appeared'
  if (after === undefined) return 'went'
  if (after === unknownIoctl) return 'ioctl went'
  if (before === unknownIoctl) return 'ioctl came'
  if (saysInvalid.test(key) && before === 'EFAULT' && after === 'EINVAL') return 'ioctl went'
  if (saysInvalid.test(key) && before === 'EINVAL' && after === 'EFAULT') return 'ioctl came'
  const [was, is] = [numberOf(before), numberOf(after)]
  const isError = (value: Value) =>
    typeof value === 'string' && /^(E[A-Z0-9]+|hung|expired|refused)$/.test(value)
  if (isError(before) && isError(after)) return 'another error'
  if (isError(after)) return 'fails now'
  if (isError(before)) return 'works now'
  if (was === undefined || is === undefined) return 'another value'
  if (is === 0n) return 'to zero'
  if (was === 0n) return 'from zero'
  if ((was & is) === is) return 'bits lost'
  if ((was & is) === was) return 'bits gained'
  return is < was ? 'smaller' : 'larger'
}

/** The class of a key's change and why. */
export function classify(
  key: string,
  before: Value | undefined,
  after: Value | undefined,
): { class: ProfileClass; reason: string } {
  const kind = changeKind(key, before, after)
  const rule = rules.find(
    ({ keys, kinds }) => keys.test(key) && (kinds === undefined || kinds.includes(kind)),
  )
  return rule ?? { class: 'info', reason: kind }
}
