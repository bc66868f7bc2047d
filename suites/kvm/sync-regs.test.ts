import {
  CAP,
  constant,
  fieldOf,
  KVM,
  offsetOf,
  type RawStep,
  type RawVcpu,
  sizeOf,
  structOf,
  withFields,
} from 'kvitest'
import { describe } from 'vitest'
import { type Bench, exitOf, outcomeOf } from './bench.ts'
import { check } from './check.ts'
import { deFacto, documented, type Exception } from './claim.ts'
import { pack } from './struct.ts'

const sync = documented('KVM_CAP_SYNC_REGS')

const validAt = offsetOf('kvm_run', 'kvm_valid_regs')
const dirtyAt = offsetOf('kvm_run', 'kvm_dirty_regs')
const setsAt = offsetOf('kvm_run', 's.regs')

/** A set of registers: its bit, its place in struct kvm_sync_regs, and the ioctls that get and set the same. */
const regs = {
  bit: constant('KVM_SYNC_X86_REGS'),
  field: 'regs',
  struct: 'kvm_regs',
  get: KVM.GET_REGS,
} as const
const sregs = {
  bit: constant('KVM_SYNC_X86_SREGS'),
  field: 'sregs',
  struct: 'kvm_sregs',
  get: KVM.GET_SREGS,
} as const
const events = {
  bit: constant('KVM_SYNC_X86_EVENTS'),
  field: 'events',
  struct: 'kvm_vcpu_events',
  get: KVM.GET_VCPU_EVENTS,
} as const

const sets = [regs, sregs, events]
type Set = (typeof sets)[number]

const placeOf = ({ field }: Set) => setsAt + offsetOf('kvm_sync_regs', field)

const ask = (vcpu: RawVcpu, bits: number | bigint) => vcpu.area.write(validAt, pack(['u64', bits]))

/** The set as kvm_run has it. */
const shown = (vcpu: RawVcpu, set: Set) => vcpu.area.read(placeOf(set), sizeOf(set.struct))

const got = (b: Bench, set: Set) => b.get(set.get, sizeOf(set.struct))

/** Puts a set into kvm_run and calls it changed. */
async function change(vcpu: RawVcpu, set: Set, bytes: Uint8Array): Promise<void> {
  await vcpu.area.write(placeOf(set), bytes)
  await vcpu.area.write(dirtyAt, pack(['u64', set.bit]))
}

const dirty = async (vcpu: RawVcpu) => fieldOf(await vcpu.area.read(0, 4096), 'kvm_run', 'kvm_dirty_regs')

const equal = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0

/** Takes the sets in and gives them out, and does not enter the guest. */
const exchange = (b: Bench) => b.run({ immediateExit: true })

/** The bits that KVM_RUN does not refuse of those that no version of the header names. */
async function takenBits(b: Bench, at: number): Promise<number[]> {
  const { fd, area, thread } = await b.guest('io_out')
  const bits = Array.from({ length: 64 - sets.length }, (_, i) => sets.length + i)
  // In one round trip: to a lab each costs some milliseconds.
  const results = await b.kvm.batch(
    bits.flatMap((bit): RawStep[] => [
      { do: 'write', memory: area.handle, offset: at, data: pack(['u64', 1n << BigInt(bit)]) },
      { do: 'run', vcpu: fd.handle, area: area.handle, thread, immediateExit: true },
    ]),
  )
  return bits.filter((_, i) => outcomeOf(results[2 * i + 1]!) !== 'EINVAL')
}

const upperHalf: Exception[] = [
  {
    where: { from: '6.12', before: '6.15' },
    outcome: Array.from({ length: 32 }, (_, i) => 32 + i),
    why: 'since 6.12.25 it compares with a mask of 32 bits; a476cadf8ef1 of 6.15 is not in 6.12',
  },
]

describe('registers in kvm_run', () => {
  check(
    'the capability is the bits of the sets',
    sync,
    (b) => b.vm(KVM.CHECK_EXTENSION, CAP.SYNC_REGS),
    constant('KVM_SYNC_X86_VALID_FIELDS'),
  )
  check('each unknown bit of kvm_valid_regs is refused', sync, (b) => takenBits(b, validAt), [], upperHalf)
  check('each unknown bit of kvm_dirty_regs is refused', sync, (b) => takenBits(b, dirtyAt), [], upperHalf)
  check(
    'a refused run leaves the guest where it was',
    deFacto(sync.section),
    async (b) => {
      const vcpu = await b.guest('io_out')
      await ask(vcpu, 1 << sets.length)
      const refused = exitOf(await b.run())
      await ask(vcpu, 0)
      return [refused, ...(await b.exits(2))]
    },
    ['EINVAL', 'io', 'io'],
  )
  for (const set of sets) {
    check(
      `${set.field} come out as the ioctl gives them`,
      sync,
      async (b) => {
        const vcpu = await b.guest('io_out', { regs: { rbx: 0x1234_5678_9abc_def0n } })
        await ask(vcpu, set.bit)
        const exit = exitOf(await b.run())
        return [exit, equal(await shown(vcpu, set), await got(b, set))]
      },
      ['io', true],
    )
    check(
      `${set.field} that nobody asked for stay as they are in kvm_run`,
      sync,
      async (b) => {
        const vcpu = await b.guest('io_out')
        const mark = new Uint8Array(sizeOf(set.struct)).fill(0xa5)
        await vcpu.area.write(placeOf(set), mark)
        await ask(vcpu, constant('KVM_SYNC_X86_VALID_FIELDS') - set.bit)
        const exit = exitOf(await b.run())
        return [exit, equal(await shown(vcpu, set), mark)]
      },
      ['io', true],
    )
    check(
      `${set.field} come out of a run that a signal ended`,
      deFacto(sync.section),
      async (b) => {
        const vcpu = await b.guest('spin')
        await ask(vcpu, set.bit)
        const running = b.run({ deadline: 20_000 })
        await b.kvm.signal(vcpu)
        return [outcomeOf(await running), equal(await shown(vcpu, set), await got(b, set))]
      },
      ['EINTR', true],
    )
  }
  check(
    'kvm_valid_regs holds until it is changed',
    deFacto(sync.section),
    async (b) => {
      const vcpu = await b.guest('io_out')
      await ask(vcpu, regs.bit)
      await b.exits(1)
      const first = fieldOf(await shown(vcpu, regs), 'kvm_regs', 'rip')
      await b.exits(1)
      return fieldOf(await shown(vcpu, regs), 'kvm_regs', 'rip') > first
    },
    true,
  )
})

describe('registers taken from kvm_run', () => {
  check(
    'regs that are dirty are taken',
    sync,
    async (b) => {
      const vcpu = await b.guest('io_out')
      await change(vcpu, regs, withFields(await got(b, regs), 'kvm_regs', { rbx: 0x1234n, r15: ~0n }))
      const outcome = outcomeOf(await exchange(b))
      const after = await got(b, regs)
      return [outcome, fieldOf(after, 'kvm_regs', 'rbx'), fieldOf(after, 'kvm_regs', 'r15')]
    },
    ['EINTR', 0x1234n, 0xffff_ffff_ffff_ffffn],
  )
  check(
    'the guest goes on with regs that are dirty',
    sync,
    async (b) => {
      // `out %ax, $0x20` at the end of the code, with another rax.
      const vcpu = await b.guest('io_out')
      await b.exits(1)
      await exchange(b)
      await change(vcpu, regs, withFields(await got(b, regs), 'kvm_regs', { rip: 0x1007, rax: 0xbeef }))
      const { io } = (await b.run()).area!
      return [io.port, [...io.data]]
    },
    [0x20, [0xef, 0xbe]],
  )
  check(
    'sregs that are dirty are taken',
    sync,
    async (b) => {
      const vcpu = await b.guest('io_out')
      const set = withFields(await got(b, sregs), 'kvm_sregs', { cr2: 0xabc0 })
      await change(vcpu, sregs, set)
      return [outcomeOf(await exchange(b)), fieldOf(await got(b, sregs), 'kvm_sregs', 'cr2')]
    },
    ['EINTR', 0xabc0n],
  )
  check(
    'events that are dirty are taken',
    sync,
    async (b) => {
      const vcpu = await b.guest('io_out')
      const flags = constant('KVM_VCPUEVENT_VALID_NMI_PENDING')
      const set = withFields(await got(b, events), 'kvm_vcpu_events', { 'nmi.masked': 1, flags })
      await change(vcpu, events, set)
      return [outcomeOf(await exchange(b)), fieldOf(await got(b, events), 'kvm_vcpu_events', 'nmi.masked')]
    },
    ['EINTR', 1n],
  )
  check(
    'KVM_RUN clears the bits of what it took',
    deFacto(sync.section),
    async (b) => {
      const vcpu = await b.guest('io_out')
      for (const set of sets) await vcpu.area.write(placeOf(set), await got(b, set))
      await vcpu.area.write(dirtyAt, pack(['u64', constant('KVM_SYNC_X86_VALID_FIELDS')]))
      return [outcomeOf(await exchange(b)), await dirty(vcpu)]
    },
    ['EINTR', 0n],
  )
  check(
    'what is written and not dirty is not taken',
    sync,
    async (b) => {
      const vcpu = await b.guest('io_out')
      const before = await got(b, regs)
      await ask(vcpu, regs.bit)
      await vcpu.area.write(placeOf(regs), structOf('kvm_regs', { rip: 0x7777, rbx: 7 }))
      const outcome = outcomeOf(await exchange(b))
      return [outcome, equal(await got(b, regs), before), equal(await shown(vcpu, regs), before)]
    },
    ['EINTR', true, true],
  )
  check(
    'sregs that KVM_SET_SREGS refuses end KVM_RUN with EINVAL, and stay dirty',
    deFacto(sync.section),
    async (b) => {
      const vcpu = await b.guest('io_out')
      const before = await got(b, sregs)
      // Paging without protection.
      await change(vcpu, sregs, withFields(before, 'kvm_sregs', { cr0: 0x8000_0000 }))
      return [outcomeOf(await exchange(b)), await dirty(vcpu), equal(await got(b, sregs), before)]
    },
    ['EINVAL', BigInt(sregs.bit), true],
  )
  check(
    'events that KVM_SET_VCPU_EVENTS refuses end KVM_RUN with EINVAL, and stay dirty',
    deFacto(sync.section),
    async (b) => {
      const vcpu = await b.guest('io_out')
      const before = await got(b, events)
      await change(vcpu, events, withFields(before, 'kvm_vcpu_events', { flags: 0x8000_0000 }))
      return [outcomeOf(await exchange(b)), await dirty(vcpu), equal(await got(b, events), before)]
    },
    ['EINVAL', BigInt(events.bit), true],
  )
  check(
    'regs are taken also when sregs beside them are refused',
    deFacto(sync.section),
    async (b) => {
      const vcpu = await b.guest('io_out')
      const bad = withFields(await got(b, sregs), 'kvm_sregs', { cr0: 0x8000_0000 })
      await vcpu.area.write(placeOf(regs), withFields(await got(b, regs), 'kvm_regs', { rbx: 9 }))
      await vcpu.area.write(placeOf(sregs), bad)
      await vcpu.area.write(dirtyAt, pack(['u64', regs.bit | sregs.bit]))
      const outcome = outcomeOf(await exchange(b))
      return [outcome, await dirty(vcpu), fieldOf(await got(b, regs), 'kvm_regs', 'rbx')]
    },
    ['EINVAL', BigInt(sregs.bit), 9n],
  )
})
