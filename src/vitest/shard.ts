/** vitest's `--shard` deals out files; a matrix is one file, and deals out its cells. */
import type { TestProject, TestSpecification, Vitest } from 'vitest/node'
import type { Shard } from '../matrix/shard.ts'

const VARIABLE = 'KVITEST_SHARD'
const MATRIX = /\.matrix\.[cm]?[jt]s$/
const prepared = new WeakSet<Vitest>()

/** The part of the cells that this run is to have; undefined: all. */
export function workerShard(): Shard | undefined {
  const [index, count] = (process.env[VARIABLE] ?? '').split('/').map(Number)
  return index && count ? { index, count } : undefined
}

/** With --shard a project's `*.matrix.ts` are in every shard, its other files in one each, as ever. */
export function shareMatrices(vitest: Vitest, project: TestProject): void {
  const { config } = vitest
  if (!config.shard) return
  const { index, count } = config.shard
  project.config.env[VARIABLE] = `${index}/${count}`
  // Merged, the report of one shard would take the place of another's: they are of one file.
  config.mergeReportsLabel ??= `shard ${index}/${count}`
  project.config.mergeReportsLabel ??= config.mergeReportsLabel
  if (prepared.has(vitest)) return
  prepared.add(vitest)
  const { passWithNoTests } = config
  const { sequencer: Sequencer } = config.sequence
  // It refuses more shards than there are files before it asks how they are dealt out.
  config.passWithNoTests = true
  config.sequence.sequencer = class {
    readonly #own = new Sequencer(vitest)

    async shard(all: TestSpecification[]): Promise<TestSpecification[]> {
      config.passWithNoTests = passWithNoTests
      const matrices = all.filter(({ moduleId }) => MATRIX.test(moduleId))
      const others = all.filter(({ moduleId }) => !MATRIX.test(moduleId))
      if (matrices.length === 0 && count > others.length && !passWithNoTests) {
        throw new Error(`--shard=${index}/${count}: there are ${others.length} test files and no matrix`)
      }
      return [...matrices, ...(others.length > 0 ? await this.#own.shard(others) : [])]
    }

    sort(files: TestSpecification[]) {
      return this.#own.sort(files)
    }
  }
}
