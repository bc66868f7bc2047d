/** What a program built for one kernel's UAPI headers meets in another's, without running anything. */
import type { HeaderFacts } from '../headers/compile.ts'
import type { Field, Layout } from '../headers/dwarf.ts'

/**
 * `breaking`: a program built for the old headers misbehaves, or does not build any more; `additive`: new names and
 * fields in what was reserved; `info`: neither.
 */
export type ChangeClass = 'breaking' | 'additive' | 'info'

export const changeClasses: readonly ChangeClass[] = ['breaking', 'additive', 'info']

export interface HeaderChange {
  class: ChangeClass
  kind: 'constant' | 'struct' | 'field'
  /** `KVM_CAP_NR_VCPUS`, `kvm_regs`, `kvm_run.io.port` */
  name: string
  /** Why it is of its class. */
  reason: string
  before?: string
  after?: string
}

/** Bytes that nobody may use yet. */
const reserved = /(^|[._])(pad(ding)?|reserved|rsvd|unused|res)\d*$/i

function hex(value: bigint): string {
  return `0x${BigInt.asUintN(64, value).toString(16)}`
}

/** Macros and enumerators: a name may move from one to the other. Macros without a body are there or not. */
function constantsOf(facts: HeaderFacts): Map<string, bigint | undefined> {
  // Include guards differ between installed and source trees.
  const macros = [...facts.macros].filter(([name]) => !/^(__|_UAPI|_ASM).*_H$/.test(name))
  return new Map([...macros.map(([name, { value }]) => [name, value] as const), ...facts.enumerators])
}

function compareConstants(before: HeaderFacts, after: HeaderFacts): HeaderChange[] {
  const [old, young] = [constantsOf(before), constantsOf(after)]
  const changes: HeaderChange[] = []
  for (const [name, value] of old) {
    const text = value === undefined ? {} : { before: hex(value) }
    if (!young.has(name)) {
      changes.push({
        class: 'breaking',
        kind: 'constant',
        name,
        ...text,
        reason: 'what names it does not build',
      })
      continue
    }
    const now = young.get(name)
    if (now === value) continue
    if (value === undefined) {
      changes.push({ class: 'info', kind: 'constant', name, after: hex(now!), reason: 'it has a value now' })
    } else {
      changes.push({
        class: 'breaking',
        kind: 'constant',
        name,
        ...text,
        ...(now === undefined ? {} : { after: hex(now) }),
        reason:
          now === undefined ? 'it has no value any more' : 'the old number means something else or nothing',
      })
    }
  }
  for (const [name, value] of young) {
    if (old.has(name)) continue
    const text = value === undefined ? {} : { after: hex(value) }
    changes.push({ class: 'additive', kind: 'constant', name, ...text, reason: 'new' })
  }
  return changes
}

function fieldText([offset, size, type, bit, bits]: Field): string {
  return bits === undefined ? `${type} at ${offset}, ${size} bytes` : `${type} at bit ${bit}, ${bits} bits`
}

function isSamePlace(a: Field, b: Field): boolean {
  return a[0] === b[0] && a[1] === b[1] && a[3] === b[3] && a[4] === b[4]
}

function compareFields(struct: string, before: Layout, after: Layout): HeaderChange[] {
  const changes: HeaderChange[] = []
  const add = (field: string, change: Omit<HeaderChange, 'kind' | 'name'>) =>
    changes.push({ kind: 'field', name: `${struct}.${field}`, ...change })
  for (const [field, was] of Object.entries(before.fields)) {
    const is = after.fields[field]
    const text = { before: fieldText(was), ...(is ? { after: fieldText(is) } : {}) }
    if (is && isSamePlace(was, is)) {
      if (was[2] !== is[2]) add(field, { class: 'info', ...text, reason: 'another type of the same size' })
    } else if (reserved.test(field)) {
      // What shrinks, moves or goes made room for a new field.
      add(field, { class: 'info', ...text, reason: 'reserved bytes' })
    } else if (!is) add(field, { class: 'breaking', ...text, reason: 'what names it does not build' })
    else if (was[0] !== is[0] || was[3] !== is[3])
      add(field, { class: 'breaking', ...text, reason: 'it is somewhere else' })
    else if (is[1] > was[1] && is[2] === was[2]) {
      // An unnamed union that has a new, larger member; what was in it has its own lines.
      add(field, { class: 'info', ...text, reason: 'it has room for more' })
    } else add(field, { class: 'breaking', ...text, reason: 'it has another size' })
  }
  for (const [field, is] of Object.entries(after.fields)) {
    if (field in before.fields || reserved.test(field)) continue
    add(field, { class: 'additive', after: fieldText(is), reason: 'new' })
  }
  return changes
}

/** Structures that ioctls take by themselves. */
function ioctlArguments(facts: HeaderFacts): Set<string> {
  const bodies = [...facts.macros.values()].map(
    ({ body }) => /^_IO\w*\(.*\bstruct (\w+)\s*\)$/.exec(body)?.[1],
  )
  return new Set(bodies.filter((name) => name !== undefined))
}

function compareStructs(before: HeaderFacts, after: HeaderFacts): HeaderChange[] {
  const changes: HeaderChange[] = []
  const bytes = (layout: Layout) => `${layout.size} bytes`
  const taken = ioctlArguments(before)
  for (const [name, was] of before.structs) {
    const is = after.structs.get(name)
    if (!is) {
      const reason = 'what names it does not build'
      changes.push({ class: 'breaking', kind: 'struct', name, before: bytes(was), reason })
      continue
    }
    if (was.size !== is.size) {
      const text = { kind: 'struct' as const, name, before: bytes(was), after: bytes(is) }
      // One that is only part of others: what moves in those has its own lines.
      const isAdditive = is.size > was.size && !taken.has(name)
      const reason = taken.has(name)
        ? 'the kernel copies another number of bytes, and the ioctl that takes it has another number'
        : `it is ${isAdditive ? 'longer' : 'shorter'}, and no ioctl takes it by itself`
      changes.push({ class: isAdditive ? 'additive' : 'breaking', ...text, reason })
    }
    changes.push(...compareFields(name, was, is))
  }
  for (const [name, is] of after.structs) {
    if (!before.structs.has(name))
      changes.push({ class: 'additive', kind: 'struct', name, after: bytes(is), reason: 'new' })
  }
  return changes
}

/** Changes from one set of headers to another: the worst class first, then as the headers have them. */
export function compareHeaders(before: HeaderFacts, after: HeaderFacts): HeaderChange[] {
  return [...compareStructs(before, after), ...compareConstants(before, after)].toSorted(
    (a, b) => changeClasses.indexOf(a.class) - changeClasses.indexOf(b.class),
  )
}
