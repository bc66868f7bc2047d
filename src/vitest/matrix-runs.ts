/** The matrices of a run as its reporters see them, the jobs of a merged one put together. */
import type { TestCase, TestModule } from 'vitest/node'
import type { CellRecord } from '../matrix/account.ts'
import { cellBlocks } from '../matrix/axes.ts'

/** The last test of each cell: its points are those that were expected. */
export const CELL = 'cell'

export interface MatrixRun {
  name: string
  expected: readonly string[]
  /** Those that were asked for, each once. */
  cells: CellRecord[]
  /** Of one file; several of a run that was merged from the reports of several jobs. */
  modules: TestModule[]
}

export function matrixRuns(modules: readonly TestModule[]): MatrixRun[] {
  const runs = new Map<string, MatrixRun>()
  for (const module of modules) {
    for (const { name, expected, cells } of module.meta().kvitestMatrices ?? []) {
      const key = JSON.stringify([module.project.name, module.moduleId, name])
      const run = runs.get(key) ?? { name, expected, cells: [], modules: [] }
      runs.set(key, run)
      if (!run.modules.includes(module)) run.modules.push(module)
      // A cell that is excepted is one in every job. A matrix that did not come to its end has them in their blocks alone.
      const ended = cells.length > 0 ? cells : endedCells(module, name)
      run.cells.push(...ended.filter(({ id }) => !run.cells.some((one) => one.id === id)))
    }
  }
  for (const run of runs.values()) {
    run.cells.sort((a, b) => run.expected.indexOf(a.id) - run.expected.indexOf(b.id))
  }
  return [...runs.values()]
}

function endedCells({ children }: TestModule, matrix: string): CellRecord[] {
  return [...children.allSuites()].flatMap((suite) => {
    const { kvitestCell } = suite.meta()
    return kvitestCell?.matrix === matrix ? [kvitestCell] : []
  })
}

/** The cell that a test is a point of, by the blocks around it; undefined for one of no cell of that matrix. */
export function cellOfTest(test: TestCase, { name, expected }: MatrixRun): string | undefined {
  const path: string[] = []
  for (let at = test.parent; at.type === 'suite'; at = at.parent) {
    const { kvitestCell } = at.meta()
    if (kvitestCell) return kvitestCell.matrix === name ? kvitestCell.id : undefined
    path.unshift(at.name)
  }
  // A block that has not ended says nothing of itself. It may stand in blocks that are no part of the matrix.
  return expected.find((id) => path.slice(-cellBlocks(id).length).join(' > ') === id)
}
