import { expect, test } from 'vitest'
import { kernelsToRetire, type Load, type NewLab, placeFor } from './placement.ts'

const lab = (cpus: number, ...checkpoints: string[]): Load => ({
  checkpoints: new Set(checkpoints),
  cpus,
  memory: cpus << 28,
})
const boot = { cpus: 1, memory: 1 << 28 }
const fork = { ...boot, checkpoint: 'k' }
/** A lab that is booted. */
const empty: NewLab = { checkpoints: new Set() }

test('a boot goes to an idle lab, else to a new one while there may be more', () => {
  const [busy, idle] = [lab(1), lab(0)]
  expect(placeFor([busy, idle], boot, empty)).toBe(idle)
  expect(placeFor([busy], boot, empty)).toBeUndefined()
  expect(placeFor([], boot, empty)).toBeUndefined()
})

test('a boot goes to the least loaded lab when there can be no more', () => {
  const [busy, busier] = [lab(2), lab(3)]
  expect(placeFor([busier, busy], boot, undefined)).toBe(busy)
})

test('a fork goes to the lab that has its checkpoint, even when that is busier', () => {
  const [has, idle] = [lab(1, 'k'), lab(0, 'other')]
  expect(placeFor([idle, has], fork, undefined)).toBe(has)
  expect(placeFor([has], fork, empty)).toBe(has)
})

test('a fork leaves a lab that is too busy for one that must make the checkpoint first', () => {
  const [has, idle] = [lab(3, 'k'), lab(0)]
  expect(placeFor([has, idle], fork, undefined)).toBe(idle)
  expect(placeFor([has], fork, empty)).toBeUndefined()
})

test('a fork starts a lab that has its checkpoint from the beginning, rather than share one', () => {
  const saved: NewLab = { checkpoints: new Set(['k']) }
  expect(placeFor([lab(1, 'k')], fork, saved)).toBeUndefined()
  expect(placeFor([lab(0, 'k')], fork, saved)).toBeDefined()
  expect(placeFor([lab(0)], fork, saved)).toBeUndefined()
})

test('who only asks a question starts no lab', () => {
  const busy = lab(4)
  expect(placeFor([busy], { cpus: 0, memory: 0 }, empty)).toBe(busy)
})

test('of more than four kernels with labs those end that nobody uses, the oldest first', () => {
  const [idle, busy, none] = [
    { hasLabs: true, isIdle: true },
    { hasLabs: true, isIdle: false },
    { hasLabs: false, isIdle: false },
  ]
  const retired = (...pools: (typeof idle)[]) =>
    kernelsToRetire(new Map(pools.map((pool, at) => [String(at), pool]))).map(([kernel]) => kernel)
  expect(retired(idle, idle, idle, idle)).toEqual([])
  expect(retired(busy, idle, none, idle, busy, idle)).toEqual(['1'])
  expect(retired(idle, busy, idle, busy, busy, busy, busy)).toEqual(['0', '2'])
  expect(retired(busy, busy, busy, busy, busy)).toEqual([])
})
