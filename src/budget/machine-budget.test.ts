import fc from 'fast-check'
import { expect, test, vi } from 'vitest'
import { type LeaseRequest, MachineBudget } from './machine-budget.ts'

const capacity = { cpus: 4, memory: 4, starts: 2 }
const request = (holder: string, cpus = 1, memory = 1): LeaseRequest => ({
  holder,
  guest: holder,
  run: 'r',
  cpus,
  memory,
})

/** Asks at once; what was granted so far, in order. */
function budget(limits = capacity) {
  const granted: string[] = []
  return { machine: new MachineBudget(limits, ({ guest }) => granted.push(guest)), granted }
}

function run(machine: MachineBudget, one: LeaseRequest): LeaseRequest {
  machine.ask(one)
  machine.started(one)
  return one
}

test('guests start in the order in which they asked, as many at a time as may start', () => {
  const { machine, granted } = budget()
  const [a, b, c] = ['a', 'b', 'c'].map((name) => request(name))
  for (const one of [a!, b!, c!]) machine.ask(one)
  expect(granted).toEqual(['a', 'b'])
  machine.started(b!)
  expect(granted).toEqual(['a', 'b', 'c'])
})

test('a large request is not overtaken by small ones', () => {
  const { machine, granted } = budget()
  const a = run(machine, request('a'))
  const b = run(machine, request('b', 2))
  machine.ask(request('large', 3))
  machine.ask(request('small'))
  expect(granted).toEqual(['a', 'b'])
  machine.leave(a)
  expect(granted).toEqual(['a', 'b'])
  machine.leave(b)
  expect(granted).toEqual(['a', 'b', 'large', 'small'])
})

test('more vCPUs than there are run alone; more memory than there is is refused', () => {
  const { machine, granted } = budget()
  const a = run(machine, request('a'))
  machine.ask(request('wide', 8))
  expect(granted).toEqual(['a'])
  machine.leave(a)
  expect(granted).toEqual(['a', 'wide'])
  expect(machine.ask(request('heavy', 1, 5))?.detail).toMatch(
    /^it takes .*, and all guests together may take /,
  )
})

test('two holders that each have a guest and want another one do not wait for each other', () => {
  const { machine, granted } = budget({ ...capacity, cpus: 2 })
  const first = run(machine, request('a'))
  run(machine, request('b'))
  const second = request('a')
  machine.ask(second)
  expect(granted).toEqual(['a', 'b'])
  machine.ask(request('b'))
  expect(granted).toEqual(['a', 'b', 'a'])
  machine.leave(second)
  expect(granted).toEqual(['a', 'b', 'a'])
  machine.leave(first)
  expect(granted).toEqual(['a', 'b', 'a', 'b'])
})

test('a holder that asks for many at once gets them as they start', () => {
  const { machine, granted } = budget({ ...capacity, cpus: 1 })
  const all = [1, 2, 3].map(() => request('a'))
  for (const one of all) machine.ask(one)
  expect(granted).toHaveLength(1)
  machine.started(all[0]!)
  expect(granted).toHaveLength(2)
})

test('whoever is told of a grant is told whether the line had stood still', () => {
  vi.useFakeTimers()
  const granted: unknown[] = []
  const machine = new MachineBudget({ ...capacity, cpus: 1 }, ({ guest }, beyond) =>
    granted.push([guest, beyond]),
  )
  run(machine, request('a'))
  machine.ask(request('b'))
  vi.advanceTimersByTime(20_000)
  expect(granted).toEqual([
    ['a', undefined],
    ['b', 'stall'],
  ])
  vi.useRealTimers()
})

test('a holder that waits for room in a lab counts as waiting', () => {
  const { machine, granted } = budget({ ...capacity, cpus: 2 })
  run(machine, request('a'))
  run(machine, request('b'))
  machine.ask(request('a'))
  expect(granted).toEqual(['a', 'b'])
  machine.setBlocked('b', true)
  expect(granted).toEqual(['a', 'b', 'a'])
})

test('who waits is told for what', () => {
  const { machine } = budget({ cpus: 2, memory: 2 ** 30, starts: 2 })
  machine.ask({ ...request('a', 2, 2 ** 29), run: 'one' })
  machine.ask(request('b'))
  const last = request('c', 2, 2 ** 28)
  machine.ask(last)
  expect(machine.describe(last)).toBe(
    '2 CPUs and 256 MiB: 1 guest of 1 run hold 2 of 2 CPUs and 512 MiB of 1 GiB, 1 of 2 at a time are starting' +
      '; 1 guest asked before',
  )
})

/** A holder asks for its guests one after the other, runs while it has them all, and gives them back. */
interface Program {
  needs: { cpus: number; memory: number }[]
}

const need = fc.record({ cpus: fc.integer({ min: 1, max: 6 }), memory: fc.integer({ min: 1, max: 4 }) })
const program: fc.Arbitrary<Program> = fc.record({ needs: fc.array(need, { minLength: 1, maxLength: 4 }) })

test('whatever is asked for in whatever order: all get it, in order, within the budget but for the rule', () => {
  fc.assert(
    fc.property(
      fc.array(program, { minLength: 1, maxLength: 8 }),
      fc.infiniteStream(fc.nat()),
      (programs, choices) => {
        const waiting: LeaseRequest[] = []
        const held = new Set<LeaseRequest>()
        const isWaiting = ({ holder }: LeaseRequest) => waiting.some((one) => one.holder === holder)
        const sum = (key: 'cpus' | 'memory') => [...held].reduce((total, one) => total + one[key], 0)
        const machine = new MachineBudget(capacity, (one) => {
          const wasStuck = [...held].every(isWaiting)
          if (waiting[0] !== one) expect(wasStuck).toBe(true)
          waiting.splice(waiting.indexOf(one), 1)
          const wasEmpty = held.size === 0
          held.add(one)
          const isWithin = sum('cpus') <= capacity.cpus && sum('memory') <= capacity.memory
          if (!isWithin) expect(wasEmpty || wasStuck).toBe(true)
        })
        const holders = programs.map(({ needs }, index) => ({
          name: `h${index}`,
          needs: [...needs],
          mine: [] as LeaseRequest[],
        }))
        const left = new Set(holders)
        for (let step = 0; left.size > 0; step++) {
          expect(step).toBeLessThan(1000)
          const runnable = [...left].filter(({ mine }) => mine.every((one) => held.has(one)))
          expect(runnable.length).toBeGreaterThan(0)
          const holder = runnable[choices.next().value! % runnable.length]!
          for (const one of holder.mine) machine.started(one)
          const next = holder.needs.shift()
          if (next) {
            const one = request(holder.name, next.cpus, next.memory)
            holder.mine.push(one)
            waiting.push(one)
            machine.ask(one)
          } else {
            left.delete(holder)
            for (const one of holder.mine) {
              held.delete(one)
              machine.leave(one)
            }
          }
        }
        expect(waiting).toEqual([])
      },
    ),
    { numRuns: 300 },
  )
})
