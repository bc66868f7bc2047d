/** A job that its CI system ends leaves reports of what had ended by then. */
import { expect, test } from 'vitest'
import type { MatrixReport } from '../report/matrix/report.ts'
import { cells, matrix } from './testing/matrix-files.ts'
import { TemporaryProject } from './testing/run-vitest.ts'

const tools = `[sh('quick', 'echo ok 1 - a', 'echo not ok 2 - b', 'echo 1..2'), sh('next', 'echo ok 1 - a', 'echo 1..1'),
  sh('slow', 'sleep 300', 'echo ok 1 - a', 'echo 1..1')]`
const files = {
  'm.matrix.ts': matrix('m', `tools: ${tools}`),
  'm.cells.json': cells(['local > quick', 'local > next', 'local > slow'], {
    quick: ['a', 'b', 'the run'],
    next: ['a', 'the run'],
    slow: ['a', 'the run'],
  }),
}
const options = { test: { include: ['**/*.matrix.ts'] } }

test.for(['SIGTERM', 'SIGINT'] as const)(
  '%s of a run leaves its matrix and its JUnit file, with what had ended',
  { timeout: 300_000 },
  async (signal) => {
    using project = new TemporaryProject(files, options)
    const vitest = project.start(['run', '--reporter=verbose'])
    // By then the block of the cell before has ended too.
    await vitest.saw('local > next > cell')
    vitest.kill(signal)
    expect((await vitest.finished).status).toBe(signal === 'SIGTERM' ? 143 : 130)

    const { isPart, cells }: MatrixReport = JSON.parse(project.read('test-results/matrix/m.part.json'))
    expect(isPart).toBe(true)
    expect(cells.map(({ id }) => id)).toEqual(['local > quick', 'local > next', 'local > slow'])
    expect(
      [cells[0]!, cells[2]!].map(({ id, state, verdict, red, toolVersion }) => [
        id,
        state,
        verdict,
        red,
        toolVersion,
      ]),
    ).toEqual([
      ['local > quick', 'run', 'fail', 1, '1.0'],
      ['local > slow', 'left out', undefined, 0, undefined],
    ])
    expect(project.read('test-results/matrix/m.part.html')).toContain('quick')
    const junit = project.read('test-results/junit.xml')
    expect(junit).toMatch(/<testcase .*name="local > quick > b"[^>]*>\s*<failure/)
    expect(junit).toMatch(
      /<testcase .*name="local > slow > a"[^>]*>\s*<skipped message="not run: the run was interrupted"/,
    )
  },
)
