/** Bisection over a matrix that is played: its cells say what a rule says. */
import { describe, expect, test } from 'vitest'
import { type Coordinates, cellName } from '../axes.ts'
import type { MatrixDeclaration } from '../declare.ts'
import { tapTool } from '../testing/tap-tool.ts'
import type { PointResult } from '../tool.ts'
import { type BisectMeans, bisectCell, bisectionLines, rerunCell } from './bisect.ts'

const guestTool = { ...tapTool('vmm', ''), takesGuest: true }
const matrix: MatrixDeclaration = {
  name: 'm',
  tools: [tapTool('probe', ''), guestTool],
  hosts: ['lab:debian:6.1-cloud', 'lab:debian:6.12-cloud'],
  guests: ['debian:6.1-cloud', 'debian:6.12-cloud'],
  except: [{ tool: 'vmm', guest: 'debian:6.1-cloud', host: 'lab:debian:6.1-cloud', reason: 'too old' }],
  baseline: { host: 'lab:debian:6.1-cloud' },
}
const probe = 'lab:debian:6.12-cloud > probe'

const builds = ['6.1-cloud', '6.1.9-cloud', '6.12.1-cloud', '6.12.2-cloud', '6.12-cloud'].map(
  (b) => `lab:debian:${b}`,
)

/** `verdicts`: of the points a and b in a cell. */
function played(
  verdicts: (cell: Coordinates, run: number) => [string, string],
): BisectMeans & { said: string[] } {
  const said: string[] = []
  let runs = 0
  return {
    said,
    run: async (cell) => {
      const [a, b] = verdicts(cell, runs++)
      const result = (verdict: string) => ({ verdict, output: '' }) as PointResult
      return new Map([
        ['a', result(a)],
        ['b', result(b)],
      ])
    },
    buildsBetween: async (axis, good, bad) =>
      axis === 'host' ? [good, ...builds.slice(1, -1), bad] : [good, bad],
    say: (line) => said.push(line),
  }
}

const isNew = ({ host }: Coordinates) => /6\.12(\.2)?-/.test(host)

describe('a red cell', () => {
  test('is traced to two builds that are neighbours, with what it takes to run each', async () => {
    const means = played((cell) => [isNew(cell) ? 'fail' : 'pass', 'pass'])
    const found = await bisectCell(matrix, { cell: probe }, means)
    expect(found).toMatchObject({
      points: ['a'],
      axis: 'host',
      minimal: 'lab:debian:6.12.2-cloud > probe',
      nearest: 'lab:debian:6.12.1-cloud > probe',
      outcomes: ['bad', 'good', 'bad'],
      verdict: 'found',
    })
    expect(bisectionLines(found, (cell) => rerunCell('m.matrix.ts', cell))).toEqual([
      `${probe}: it is the host that makes a red`,
      '  minimal failing cell: lab:debian:6.12.2-cloud > probe',
      "    rerun: npx kvitest bisect m.matrix.ts --run 'lab:debian:6.12.2-cloud > probe'",
      '  nearest passing cell: lab:debian:6.12.1-cloud > probe',
      "    rerun: npx kvitest bisect m.matrix.ts --run 'lab:debian:6.12.1-cloud > probe'",
      '  confirmed: bad, good, bad run anew: bad, good, bad',
    ])
    expect(means.said[0]).toBe(`bad     ${probe}: a: fail`)
  })

  test('loses the axis that does not matter', async () => {
    const means = played(({ guest }) => ['pass', guest === 'debian:6.12-cloud' ? 'oops' : 'pass'])
    const request = {
      cell: 'lab:debian:6.12-cloud > vmm > debian:6.12-cloud',
      good: 'lab:debian:6.1-cloud > vmm > debian:6.1-cloud',
    }
    expect(await bisectCell(matrix, request, means)).toMatchObject({
      points: ['b'],
      axis: 'guest',
      minimal: 'lab:debian:6.1-cloud > vmm > debian:6.12-cloud',
      nearest: 'lab:debian:6.1-cloud > vmm > debian:6.1-cloud',
    })
  })

  test('that is red now and then is flaky, and no verdict', async () => {
    // The first five runs are two of the pair and three of builds; the next are to confirm it.
    const means = played((cell, run) => [isNew(cell) && run < 5 ? 'fail' : 'pass', 'pass'])
    const found = await bisectCell(matrix, { cell: probe }, means)
    expect(found.verdict).toBe('flaky')
    expect(bisectionLines(found, cellNameOnly)[0]).toMatch(
      /: flaky, so no verdict: bad, good, bad run anew: /,
    )
    expect(bisectionLines(found, cellNameOnly).join()).not.toContain('it is the')
  })

  test('that skips where the baseline passes is one too', async () => {
    const means = played((cell) => [isNew(cell) ? 'skip' : 'pass', 'pass'])
    expect(await bisectCell(matrix, { cell: probe }, means)).toMatchObject({
      points: ['a'],
      verdict: 'found',
    })
  })
})

const cellNameOnly = (cell: string) => cell

test.for<[string, Parameters<typeof bisectCell>[1], MatrixDeclaration, [string, string], string]>([
  [
    'a tool that there is not',
    { cell: 'local > x' },
    matrix,
    ['fail', 'pass'],
    "'local > x' is no cell: tools are probe, vmm",
  ],
  [
    'a cell that there is not',
    { cell: 'local > probe' },
    matrix,
    ['fail', 'pass'],
    "the matrix m has no cell 'local > probe'; cells are",
  ],
  [
    'a cell that is excepted',
    { cell: 'lab:debian:6.1-cloud > vmm > debian:6.1-cloud' },
    matrix,
    ['fail', 'pass'],
    'is not run: too old',
  ],
  [
    'a tool without its guest',
    { cell: 'lab:debian:6.1-cloud > vmm' },
    matrix,
    ['fail', 'pass'],
    'vmm boots a guest, HOST > vmm > GUEST',
  ],
  [
    'a cell that passes',
    { cell: probe },
    matrix,
    ['pass', 'pass'],
    `${probe} passes: there is nothing to find`,
  ],
  [
    'a cell that skips here and there',
    { cell: probe },
    matrix,
    ['skip', 'pass'],
    `${probe} passes: there is nothing to find`,
  ],
  [
    'a cell that is red everywhere',
    { cell: probe },
    matrix,
    ['fail', 'pass'],
    `what is red in ${probe} does not pass in lab:debian:6.1-cloud > probe either: a; name a good cell`,
  ],
  [
    'no baseline',
    { cell: probe },
    { ...matrix, baseline: undefined } as unknown as MatrixDeclaration,
    ['fail', 'pass'],
    'the matrix m has no baseline; name a good cell',
  ],
  [
    'the baseline itself',
    { cell: 'lab:debian:6.1-cloud > probe' },
    matrix,
    ['fail', 'pass'],
    'is on the baseline itself; name a good cell',
  ],
])('%s is said in one line', async ([, request, declared, verdicts, message]) => {
  const error = await bisectCell(
    declared,
    request,
    played(() => verdicts),
  ).catch((one: Error) => one)
  expect((error as Error).message).toContain(message)
  expect((error as Error).message).not.toContain('\n')
})

test('cells are named as the tests are', () => {
  expect(cellName({ host: 'local', tool: 'vmm', guest: 'debian:6.1-cloud' })).toBe(
    'local > vmm > debian:6.1-cloud',
  )
})
