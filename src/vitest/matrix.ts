/** For `*.matrix.ts` files: `import { defineMatrix, kvmSelftests } from 'kvitest/matrix'`. */
import { dirname, relative, resolve } from 'node:path'
import { afterAll, describe, type TestContext, test } from 'vitest'
import { type HostChoice, openMachineHost } from '../host/index.ts'
import type { MachineHost } from '../host/machine-host.ts'
import { type CellRecord, cellVerdict, compareCells } from '../matrix/account.ts'
import { cellBlocks, cellName, cellTags, whereElse } from '../matrix/axes.ts'
import { bisectCell, bisectionLines, rerunCell } from '../matrix/bisect/bisect.ts'
import { CellRunner, realMeans } from '../matrix/bisect/means.ts'
import { CellRun, infraError } from '../matrix/cell-run.ts'
import {
  CELLS_TEST,
  cellsPath,
  difference,
  type ExpectedCells,
  pointsKey,
  readCells,
  writeCells,
} from '../matrix/cells-file.ts'
import { isCollected } from '../matrix/collect.ts'
import {
  baselineOf,
  type Cell,
  cellMatches,
  expandMatrix,
  type MatrixDeclaration,
} from '../matrix/declare.ts'
import { type FingerprintDifference, judgeFingerprint } from '../matrix/fingerprint.ts'
import { cellsOfShard } from '../matrix/shard.ts'
import type { PointResult } from '../matrix/tool.ts'
import { KvitestError } from '../native/error.ts'
import { settleSkip } from '../verdict/settle.ts'
import { boundText } from './bounded-text.ts'
import { circumstancesOf, expectationsOf } from './expected.ts'
import { ScriptFailure } from './failure.ts'
import { CELL } from './matrix-runs.ts'
import type { MatrixMeta } from './meta.ts'
import { collectedFile, declareTags, isUpdating } from './runner-link.ts'
import { workerShard } from './shard.ts'

export { type CheckpointOptions, checkpoint } from '../matrix/checkpoint/tool.ts'
export type { CellPattern, MatrixDeclaration } from '../matrix/declare.ts'
export type { FingerprintDifference } from '../matrix/fingerprint.ts'
export type { GuestMachine, ToolSetup } from '../matrix/machine.ts'
export { planted } from '../matrix/plant.ts'
export { servedHosts } from '../matrix/served-hosts.ts'
export type { Fingerprint, PointResult, PreparedTool, Tool, ToolPlace } from '../matrix/tool.ts'
export {
  cloudHypervisor,
  crosvm,
  firecracker,
  kvmtool,
  type OtherVmmOptions,
} from '../matrix/tools/other-vmm.ts'
export { linuxPerf, type PerfOptions, type PerfVersion } from '../matrix/tools/perf.ts'
export { abiProbe } from '../matrix/tools/probe.ts'
export { qemu } from '../matrix/tools/qemu.ts'
export { kvmSelftests } from '../matrix/tools/selftests.ts'
export { ownVmm } from '../matrix/tools/vmm.ts'

/** Characters of a point's output that its reports have. */
const maxReported = 16 << 10
/** No time-out of vitest's: a point has its tool's deadline, and the first one waits for the tool and the host. */
const options = { concurrent: false, timeout: 0 }

/** Registers a matrix: a block for each host, in it one for each cell, in it a test for each point. */
export function defineMatrix(declaration: MatrixDeclaration): void {
  if (isCollected(declaration)) return
  const file = collectedFile()
  if (file === undefined) {
    throw new KvitestError(`matrix ${declaration.name}`, 'its file runs without the plugin of kvitest', {
      hint: 'give the project plugins: [kvitest()]',
      infra: false,
    })
  }
  // A file of expectations that cannot be read fails the matrix before anything is fetched.
  expectationsOf(file.filepath)
  const matrix = new Matrix(declaration, file.filepath)
  // Known before anything runs: a block that is skipped, a run that breaks off, must not hide what was expected.
  file.meta.kvitestMatrices = [...(file.meta.kvitestMatrices ?? []), matrix.meta]
  matrix.register()
}

class Matrix {
  /** On the file, for the reporters; its cells come when all have ended. */
  readonly meta: MatrixMeta
  readonly #declaration: MatrixDeclaration
  readonly #file: string
  readonly #cells: Cell[]
  readonly #expected: ExpectedCells
  readonly #runs: CellRun[]
  /** Those of whose points one failed the run. */
  readonly #red = new Set<CellRun>()
  readonly #hosts = new Map<string, Promise<MachineHost>>()
  /** Declared differences that were seen. */
  readonly #used = new Set<FingerprintDifference>()

  constructor(declaration: MatrixDeclaration, file: string) {
    this.#declaration = declaration
    this.#file = file
    this.#cells = expandMatrix(declaration)
    this.meta = { name: declaration.name, expected: this.#cells.map(({ id }) => id), cells: [] }
    const { pointsOf } = declaration
    this.#expected = readCells(pointsOf === undefined ? cellsPath(file) : resolve(dirname(file), pointsOf))
    this.#runs = this.#cells.map((cell) => new CellRun(cell, () => this.#host(cell.at.host)))
  }

  register(): void {
    const { hosts } = this.#declaration
    const mine = this.#ownRuns()
    // No cell's, so one shard has it; one that has nothing else as well, for a file without a test fails.
    if ((workerShard()?.index ?? 1) === 1 || mine.length === 0) {
      test(CELLS_TEST, options, () => this.#checkCells())
    }
    declareTags(this.#cells.flatMap(({ at }) => cellTags(at)))
    for (const host of hosts) {
      const runs = mine.filter(({ cell }) => cell.at.host === host)
      if (runs.length === 0) continue
      // Hosts side by side; in each one cell after the other, so that its lab is started once.
      describe(host, { concurrent: true }, () => {
        for (const run of runs) this.#registerCell(run)
        afterAll(async () => {
          const opened = this.#hosts.get(host)
          await (await opened?.catch(() => undefined))?.close()
        }, 0)
      })
    }
    afterAll(async () => {
      const records = await this.#records()
      if (this.#declaration.bisect || process.env.KVITEST_BISECT === '1') await this.#bisect(records)
      this.meta.cells = records
      if (isUpdating() && this.#declaration.pointsOf === undefined) await this.#update()
      await this.#close()
      this.#checkDifferences()
    }, 0)
  }

  /** Those of the shard that this run is, all without one. */
  #ownRuns(): CellRun[] {
    const shard = workerShard()
    if (!shard) return this.#runs
    const ids = this.#runs.map(({ cell }) => cell.id)
    const own = new Set(cellsOfShard(ids, this.#expected.points, shard))
    return this.#runs.filter(({ cell }) => own.has(cell.id))
  }

  #registerCell(run: CellRun): void {
    const { cell } = run
    const names = cellBlocks(cell.id).slice(1)
    const tags = cellTags(cell.at)
    const nested = (at: number): void => {
      if (at < names.length) {
        describe(names[at]!, { concurrent: false, tags }, () => nested(at + 1))
        return
      }
      if (cell.excepted !== undefined) {
        test(CELL, options, (context) => context.skip(cell.excepted))
        return
      }
      for (const point of this.#expected.points[pointsKey(cell.id)] ?? []) {
        test(point, options, (context) => this.#point(run, point, context))
      }
      test(CELL, options, (context) => this.#cell(run, context))
      // biome-ignore lint/correctness/noEmptyPattern: vitest reads the names of fixtures from the pattern
      afterAll(async ({}, suite) => {
        await run.close()
        if (suite.tasks.some(({ result }) => result?.state === 'fail')) this.#red.add(run)
        suite.meta.kvitestCell = await this.#record(run)
      }, 0)
    }
    nested(0)
  }

  async #point(run: CellRun, name: string, context: TestContext): Promise<void> {
    const { host } = await this.#opened(run, context)
    const result = await this.#judged(run, name)
    const { verdict, reason = '', output } = result
    // For the reports, whatever the test makes of it.
    context.task.meta.kvitestResult = { ...result, output: boundText(output, maxReported) }
    if (verdict === 'pass') return
    if (verdict === 'infra') throw infraError(run.cell, reason)
    const place = { file: this.#file, line: 1 }
    if (verdict === 'skip') {
      const at = { kernelRelease: host.kernelRelease, host: host.name }
      const path = [...cellBlocks(run.cell.id), name]
      const skip = { name, reason: reason || undefined, declared: [] }
      const problem = settleSkip(skip, circumstancesOf({ file: this.#file, path }, at))
      if (problem !== undefined) throw new ScriptFailure(problem, place, { isExcusable: false })
      context.skip(reason)
    }
    const before = this.#baselineOf(run)?.results.get(name)
    const compared = before
      ? [`on the baseline: ${before.verdict}${before.reason ? ` (${before.reason})` : ''}`]
      : []
    throw new ScriptFailure([`${verdict}: ${reason}`, ...compared, output].join('\n'), place)
  }

  /** A part of a fingerprint is compared with the baseline's, which is fetched where this run would not have had it. */
  async #judged(run: CellRun, name: string): Promise<PointResult> {
    const own = await run.point(name)
    const baseline = this.#baselineOf(run)
    if (!own.fingerprint || !baseline || baseline.cell.excepted !== undefined) return own
    const other = await baseline.point(name).catch((error: unknown) => infraResult(error))
    const declared = (this.#declaration.differences ?? []).filter((one) => cellMatches(one, run.cell.at))
    const { result, used } = judgeFingerprint(
      name,
      own,
      { host: whereElse(baseline.cell.at, run.cell.at), result: other },
      declared,
    )
    for (const one of used) this.#used.add(one)
    run.results.set(name, result)
    return result
  }

  /** A declared difference that no cell shows is out of date; known only when all cells ran. */
  #checkDifferences(): void {
    const { name, differences = [] } = this.#declaration
    if (this.#runs.some((run) => !run.isBegun && run.cell.excepted === undefined)) return
    const idle = differences.find((one) => !this.#used.has(one))
    if (!idle) return
    throw new KvitestError(
      `matrix ${name}`,
      `no cell shows the declared difference ${JSON.stringify(idle)}`,
      {
        hint: 'take it out of the matrix',
        infra: false,
      },
    )
  }

  /** What the cell's tool has and what is stored are the same points, and there are some. */
  async #cell(run: CellRun, context: TestContext): Promise<void> {
    await this.#opened(run, context)
    const points = await run.points()
    if (points.length === 0) throw infraError(run.cell, 'the tool has no point')
    if (isUpdating()) return
    const key = pointsKey(run.cell.id)
    const problem = difference(`points of ${key}`, this.#expected.points[key] ?? [], points)
    if (problem !== undefined) throw infraError(run.cell, problem)
  }

  /** Where it ran is known to the expectations before anything can fail there. */
  async #opened(run: CellRun, { task }: TestContext) {
    task.meta.kvitestPlace = { host: run.cell.at.host }
    try {
      const opened = await run.opened()
      task.meta.kvitestPlace = { host: run.cell.at.host, kernelRelease: opened.host.kernelRelease }
      return opened
    } catch (error) {
      // Whatever kept the tool from running says nothing about the kernel.
      throw infraError(run.cell, error instanceof Error ? error.message : String(error))
    }
  }

  #checkCells(): void {
    if (isUpdating()) return
    const { name, pointsOf } = this.#declaration
    const ids = this.#cells.map(({ id }) => id)
    const unknown = this.#cells.find((cell) => !this.#expected.points[pointsKey(cell.id)]?.length)
    const problem =
      pointsOf === undefined
        ? difference(`cells of ${name}`, this.#expected.cells, ids)
        : unknown && `${pointsOf} has no points of ${pointsKey(unknown.id)}`
    if (problem !== undefined) throw new KvitestError(`matrix ${name}`, `infra: ${problem}`)
  }

  #host(name: string): Promise<MachineHost> {
    let host = this.#hosts.get(name)
    if (!host) {
      host = openMachineHost(name as HostChoice)
      this.#hosts.set(name, host)
    }
    return host
  }

  #baselineOf({ cell }: CellRun): CellRun | undefined {
    const at = baselineOf(this.#declaration, cell.at)
    return at && this.#runs.find(({ cell: { id } }) => id === cellName(at))
  }

  /** Hosts of baselines that were asked beyond what the run was to have; the others have closed theirs. */
  async #close(): Promise<void> {
    await Promise.all(this.#runs.map((run) => run.close()))
    const hosts = await Promise.allSettled(this.#hosts.values())
    await Promise.all(hosts.map((host) => (host.status === 'fulfilled' ? host.value.close() : undefined)))
  }

  async #record(run: CellRun): Promise<CellRecord> {
    const { id, at, excepted } = run.cell
    const record = { matrix: this.#declaration.name, id, ...at }
    if (excepted !== undefined) return { ...record, excepted, verdict: 'skip', reason: excepted, points: {} }
    const baseline = this.#baselineOf(run)
    return {
      ...record,
      ...(await aboutOf(run)),
      ...cellVerdict(run.results.values()),
      ...(baseline
        ? { baseline: baseline.cell.id, differences: compareCells(baseline.results, run.results) }
        : {}),
    }
  }

  /** Of the cells that were asked for: -t leaves others out. */
  async #records(): Promise<CellRecord[]> {
    const asked = this.#runs.filter((run) => run.isBegun || run.cell.excepted !== undefined)
    return Promise.all(asked.map((run) => this.#record(run)))
  }

  /** Red cells that have a baseline, one after the other; by then the hosts of the run are closed. */
  async #bisect(records: CellRecord[]): Promise<void> {
    const file = relative(process.cwd(), this.#file)
    await using runner = new CellRunner(this.#declaration)
    for (const { cell } of [...this.#red].filter((run) => this.#baselineOf(run))) {
      const record = records.find(({ id }) => id === cell.id)!
      try {
        const found = await bisectCell(
          this.#declaration,
          { cell: cell.id },
          realMeans(runner, () => {}),
        )
        record.bisection = bisectionLines(found, (one) => rerunCell(file, one))
      } catch (error) {
        // A cell that is red for another reason than its points, or passes by now, is no reason to lose the report.
        record.bisection = [`${cell.id}: ${(error as Error).message}`]
      }
    }
  }

  async #update(): Promise<void> {
    const points: Record<string, string[]> = {}
    for (const run of this.#runs) {
      const key = pointsKey(run.cell.id)
      const known = points[key] ?? this.#expected.points[key]
      const found = run.isBegun ? await run.points().catch(() => undefined) : undefined
      const names = found ?? known
      if (names) points[key] = names
    }
    writeCells(cellsPath(this.#file), { cells: this.#cells.map(({ id }) => id), points })
  }
}

/** Of a baseline that cannot be had. */
function infraResult(error: unknown): PointResult {
  return { verdict: 'infra', reason: error instanceof Error ? error.message : String(error), output: '' }
}

async function aboutOf(run: CellRun): Promise<Partial<CellRecord>> {
  const opened = run.isBegun ? await run.opened().catch(() => undefined) : undefined
  if (!opened) return {}
  const { tool, host } = opened
  return {
    toolVersion: tool.version,
    toolHash: tool.hash,
    hostKernel: host.kernelRelease,
    hostAccelerator: host.accelerator,
  }
}
