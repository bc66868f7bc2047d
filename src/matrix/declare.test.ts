import { describe, expect, test } from 'vitest'
import { expandMatrix, type MatrixDeclaration } from './declare.ts'
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
  ])('%s is refused', (_, matrix, message) => {
    expect(() => ids(matrix)).toThrow(message)
  })
})
