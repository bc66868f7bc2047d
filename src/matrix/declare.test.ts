import { describe, expect, test } from 'vitest'
import { baselineOf, cellAt, expandMatrix, type MatrixDeclaration } from './declare.ts'
import { takesOnly } from './machine.ts'
import type { Tool } from './tool.ts'

const tool = (name: string, takesGuest = false): Tool => ({
  name,
  takesGuest,
  need: { cpus: 1, memory: 0 },
  prepare: () => Promise.reject(new Error('not in this test')),
})
const base: MatrixDeclaration = {
  name: 'm',
  tools: [tool('old'), tool('vmm', true)],
  hosts: ['lab:a', 'lab:b', 'local'],
  guests: ['g1', 'g2'],
}
const ids = (matrix: Partial<MatrixDeclaration>) => expandMatrix({ ...base, ...matrix }).map(({ id }) => id)

describe('the cells of a matrix', () => {
  test('a tool without a guest has one a host, one with has one a guest; those of a host are together', () => {
    expect(ids({ hosts: ['lab:a', 'local'] })).toEqual([
      'lab:a > old',
      'lab:a > vmm > g1',
      'lab:a > vmm > g2',
      'local > old',
      'local > vmm > g1',
      'local > vmm > g2',
    ])
  })

  test('without guests a tool that takes one has no cell', () => {
    const { guests: _, ...rest } = base
    expect(expandMatrix({ ...rest, hosts: ['local'] }).map(({ id }) => id)).toEqual(['local > old'])
  })

  test('`only` leaves those that one of its patterns names', () => {
    expect(
      ids({
        only: [
          { host: 'lab:*', tool: 'old' },
          { guest: 'g2', host: 'local' },
        ],
      }),
    ).toEqual(['lab:a > old', 'lab:b > old', 'local > vmm > g2'])
  })

  test('`except` keeps them in the count, with the reason', () => {
    const cells = expandMatrix({ ...base, except: [{ host: 'local', tool: 'vmm', reason: 'no ring 0' }] })
    expect(cells).toHaveLength(9)
    expect(cells.filter(({ excepted }) => excepted === 'no ring 0').map(({ id }) => id)).toEqual([
      'local > vmm > g1',
      'local > vmm > g2',
    ])
  })

  test.each<[string, Partial<MatrixDeclaration>, string]>([
    ['a name twice', { hosts: ['local', 'local'] }, 'the host local is there twice'],
    ['an exception of nothing', { except: [{ tool: 'new', reason: 'x' }] }, 'names no cell'],
    [
      '`only` of nothing beside something',
      { only: [{ tool: 'old' }, { host: 'c' }] },
      '{"host":"c"} names no cell',
    ],
    ['an exception without a reason', { except: [{ tool: 'old', reason: ' ' }] }, 'without a reason'],
    ['a baseline elsewhere', { baseline: { host: 'lab:c' } }, 'the baseline lab:c is none of its hosts'],
    ['no cell', { tools: [] }, 'it has no cell'],
    ['an accelerator of nobody', { accelerators: ['kvm', 'hvf'] }, 'no tool has the accelerator hvf'],
    ['an accelerator twice', { accelerators: ['kvm', 'kvm'] }, 'the accelerator kvm is there twice'],
    [
      'a baseline of another machine',
      { baseline: { machine: 'smp' } },
      'baseline: {"machine":"smp"} names no cell',
    ],
    [
      'a name that is two',
      { tools: [tool('a machine:b')] },
      "the tool 'a machine:b' would be read as that of a cell",
    ],
    ['a machine of two words', { machines: { 'a b': {} } }, "the machine 'a b' has more than letters"],
    [
      'another default',
      { machines: { default: { cpus: 2 } } },
      'the machine default is what a tool has by itself',
    ],
    ['no CPU', { machines: { m: { cpus: 0 } } }, 'machine m: cpus: 0 is no number of CPUs'],
    ['a lot of memory', { machines: { m: { memory: 'lots' } } }, 'machine m: memory: lots is no size in MiB'],
    [
      'a strange bus',
      { machines: { m: { transport: 'usb' as 'pci' } } },
      'machine m: transport: usb is neither',
    ],
    ['a word of its own', { machines: { m: { cores: 2 } as object } }, 'machine m: a machine has no cores'],
    [
      'a machine that a tool does not have',
      { machines: { default: {}, smp: { cpus: 2 } } },
      'vmm does not have the machine smp: it has its own only; leave it out by only or except',
    ],
  ])('%s is refused', (_, matrix, message) => {
    expect(() => ids(matrix)).toThrow(message)
  })
})

describe('the axes that a matrix need not have', () => {
  const emulator: Tool = {
    ...tool('emulator', true),
    accelerators: ['kvm', 'tcg'],
    refusesMachine: takesOnly('cpus', 'memory'),
  }
  const matrix: MatrixDeclaration = {
    ...base,
    tools: [tool('old'), emulator],
    hosts: ['local'],
    guests: ['g'],
    accelerators: ['kvm', 'tcg'],
    machines: { default: {}, smp: { cpus: 2 } },
  }
  const names = (change: Partial<MatrixDeclaration>) =>
    expandMatrix({ ...matrix, ...change }).map(({ id }) => id)

  test('a tool has a cell for each accelerator that it has, one with a guest for each machine', () => {
    expect(names({})).toEqual([
      'local > old',
      'local > emulator > g',
      'local > emulator machine:smp > g',
      'local > emulator accelerator:tcg > g',
      'local > emulator accelerator:tcg machine:smp > g',
    ])
    const { setup } = expandMatrix(matrix).at(-1)!
    expect(setup).toEqual({ accelerator: 'tcg', machine: { cpus: 2 } })
  })

  test('without the default there are the others only', () => {
    expect(names({ accelerators: ['tcg'], machines: { smp: { cpus: 2 } } })).toEqual([
      'local > emulator accelerator:tcg machine:smp > g',
    ])
  })

  test('patterns name them, also what the name of a cell leaves out', () => {
    expect(
      names({
        only: [
          { accelerator: 'kvm', machine: 'default' },
          { machine: 's*', accelerator: 'tcg' },
        ],
      }),
    ).toEqual(['local > old', 'local > emulator > g', 'local > emulator accelerator:tcg machine:smp > g'])
    const excepted = expandMatrix({ ...matrix, except: [{ accelerator: 'tcg', reason: 'slow' }] })
    expect(excepted.filter((one) => one.excepted).map(({ id }) => id)).toEqual(names({}).slice(3))
  })

  test('a machine that a tool does not have is no fault where it is left out', () => {
    const machines = { default: {}, mmio: { transport: 'mmio' as const } }
    const why = 'it takes cpus and memory, not transport'
    expect(() => names({ machines })).toThrow(`emulator does not have the machine mmio: ${why}`)
    expect(names({ machines, only: [{ machine: 'default' }] })).toHaveLength(3)
    expect(names({ machines, except: [{ machine: 'mmio', reason: 'no such bus' }] })).toHaveLength(5)
  })

  test('a baseline may be on any of the axes', () => {
    const at = cellAt(matrix, {
      host: 'local',
      tool: 'emulator',
      guest: 'g',
      accelerator: 'tcg',
      machine: 'smp',
    }).at
    const of = (baseline: MatrixDeclaration['baseline']) => baselineOf({ ...matrix, baseline: baseline! }, at)
    expect(of({ accelerator: 'kvm' })).toEqual({
      host: 'local',
      tool: 'emulator',
      guest: 'g',
      machine: 'smp',
    })
    expect(of({ machine: 'default', host: 'lab:a' })).toEqual({
      host: 'lab:a',
      tool: 'emulator',
      guest: 'g',
      accelerator: 'tcg',
    })
    expect(of({ accelerator: 'tcg' })).toBeUndefined()
    expect(
      baselineOf({ ...matrix, baseline: { guest: 'h' } }, { host: 'local', tool: 'old' }),
    ).toBeUndefined()
  })

  test.for<[string, Parameters<typeof cellAt>[1], string]>([
    [
      'an accelerator',
      { host: 'x', tool: 'old', accelerator: 'tcg' },
      "'x > old accelerator:tcg' is no cell: old has kvm",
    ],
    ['a machine', { host: 'x', tool: 'emulator', guest: 'y', machine: 'big' }, 'machines are default, smp'],
    ['a guest to have a machine', { host: 'x', tool: 'old', machine: 'smp' }, 'old boots no guest'],
  ])('a cell that lacks %s is named', ([, at, message]) => {
    expect(() => cellAt(matrix, at)).toThrow(message)
  })
})
