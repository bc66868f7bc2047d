/** Cells on real hosts, and builds that Debian serves. */
import { type HostChoice, openMachineHost } from '../../host/index.ts'
import type { MachineHost } from '../../host/machine-host.ts'
import { findDebianKernel, servedBuilds } from '../../image/debian-kernel.ts'
import { compareVersions } from '../../image/debian-version.ts'
import type { Axis, Coordinates } from '../axes.ts'
import { CellRun } from '../cell-run.ts'
import { pointsKey } from '../cells-file.ts'
import { type Cell, cellAt, type MatrixDeclaration } from '../declare.ts'
import type { PointResult, PreparedTool } from '../tool.ts'
import type { BisectMeans } from './bisect.ts'

/** Runs cells one after the other; a host stays open as long as the next cell is on it. */
export class CellRunner implements AsyncDisposable {
  readonly #matrix: MatrixDeclaration
  /** Which package is the newest is asked once, so that all cells have the same tool. */
  readonly #prepared = new Map<string, Promise<PreparedTool>>()
  #host: { name: string; machines: MachineHost } | undefined

  constructor(matrix: MatrixDeclaration) {
    this.#matrix = matrix
  }

  async run(at: Coordinates, points?: string[]): Promise<Map<string, PointResult>> {
    const cell = cellAt(this.#matrix, at)
    const tool = { ...cell.tool, prepare: () => this.#prepare(cell) }
    const run = new CellRun({ ...cell, tool }, () => this.#open(at.host))
    try {
      const { tool: prepared } = await run.opened()
      const known = prepared.each?.points
      if (known && points)
        for (const point of points.filter((one) => known.includes(one))) await run.point(point)
      else for (const point of await run.points()) if (known) await run.point(point)
      return run.results
    } finally {
      await run.close()
    }
  }

  #prepare({ id, at, tool, setup }: Cell): Promise<PreparedTool> {
    const key = pointsKey(id)
    const prepared = this.#prepared.get(key) ?? tool.prepare(at.guest, setup)
    this.#prepared.set(key, prepared)
    return prepared
  }

  async #open(name: string): Promise<MachineHost> {
    if (this.#host?.name !== name) {
      await this[Symbol.asyncDispose]()
      this.#host = { name, machines: await openMachineHost(name as HostChoice) }
    }
    return this.#host!.machines
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const host = this.#host
    this.#host = undefined
    await host?.machines.close()
  }
}

const kernelOf = (name: string) => /^(lab:)?(debian:.*-cloud.*)$/.exec(name)

/** Of two kernels of Debian, the builds from the good one to the bad one that it serves today. */
export async function debianBuildsBetween(axis: Axis, good: string, bad: string): Promise<string[]> {
  const [from, to] = [kernelOf(good), kernelOf(bad)]
  if (!['host', 'guest'].includes(axis) || !from || !to || from[1] !== to[1]) return []
  const note = () => {}
  const versionOf = async (name: string) => (await findDebianKernel(name, note)).version
  const [start, end] = [await versionOf(from[2]!), await versionOf(to[2]!)]
  const isUp = compareVersions(start, end) < 0
  const [low, high] = isUp ? [start, end] : [end, start]
  const between = (await servedBuilds())
    .filter(({ version }) => compareVersions(low, version) < 0 && compareVersions(version, high) < 0)
    .toSorted((a, b) => compareVersions(a.version, b.version))
    .map(({ name }) => `${from[1] ?? ''}${name}`)
  return [good, ...(isUp ? between : between.toReversed()), bad]
}

export function realMeans(runner: CellRunner, say: (line: string) => void, walksBuilds = true): BisectMeans {
  return {
    run: (cell, points) => runner.run(cell, points),
    buildsBetween: async (axis, good, bad) => (walksBuilds ? debianBuildsBetween(axis, good, bad) : []),
    say,
  }
}
