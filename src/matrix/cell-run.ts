/** One cell at work: its tool is prepared and put on the host once, its points are run when they are asked for. */
import { leaseGuest } from '../budget/process-budget.ts'
import type { HostInfo, MachineHost } from '../host/machine-host.ts'
import type { ProgramPlace } from '../host/program/contract.ts'
import { KvitestError } from '../native/error.ts'
import type { Cell } from './declare.ts'
import type { PointResult, PreparedTool, ToolPlace } from './tool.ts'

/** The host of a cell, as far as it is needed. */
export type CellHost = Pick<MachineHost, 'info' | 'openPrograms'>

interface Opened {
  tool: PreparedTool
  host: HostInfo
  at: ToolPlace
  close(): Promise<void>
}

export class CellRun {
  readonly cell: Cell
  /** Points that have run, in the order they ended. */
  readonly results = new Map<string, PointResult>()
  readonly #openHost: () => Promise<CellHost>
  #opened: Promise<Opened> | undefined
  #all: Promise<Map<string, PointResult>> | undefined

  constructor(cell: Cell, openHost: () => Promise<CellHost>) {
    this.cell = cell
    this.#openHost = openHost
  }

  /** Somebody asked for it. */
  get isBegun(): boolean {
    return this.#opened !== undefined
  }

  /** Rejects with an infra KvitestError when the tool cannot be had or the host is none. */
  opened(): Promise<Opened> {
    this.#opened ??= this.#open()
    return this.#opened
  }

  /** Names of all its points, of a tool that prints them after it has run. */
  async points(): Promise<string[]> {
    const { tool } = await this.opened()
    if (tool.each) return tool.each.points
    const all = await this.#runAll()
    // One that was judged since stays what it is.
    for (const [name, result] of all) if (!this.results.has(name)) this.results.set(name, result)
    return [...all.keys()]
  }

  /** Runs a point, or the whole tool when that gives all of them at once. */
  async point(name: string): Promise<PointResult> {
    const { tool, at } = await this.opened()
    const { each } = tool
    const result = each
      ? await this.#leased(tool, () => each.run(at, name))
      : ((await this.#runAll()).get(name) ?? missing(name))
    this.results.set(name, result)
    return result
  }

  async close(): Promise<void> {
    const opened = await this.#opened?.catch(() => undefined)
    await opened?.close()
  }

  async #open(): Promise<Opened> {
    const { at, tool, setup } = this.cell
    const prepared = await tool.prepare(at.guest, setup)
    const host = await this.#openHost()
    const { pack } = prepared
    const programs = pack && (await host.openPrograms(pack, prepared.need ?? tool.need))
    return {
      tool: prepared,
      host: host.info,
      at: placeAt(this.cell, programs),
      close: async () => programs?.close(),
    }
  }

  #runAll(): Promise<Map<string, PointResult>> {
    this.#all ??= this.opened().then(({ tool, at }) => this.#leased(tool, () => tool.all!(at)))
    return this.#all
  }

  /** Within the machine's budget, as a guest of the tool's size; a tool without one sees to that itself. */
  async #leased<T>(prepared: PreparedTool, run: () => Promise<T>): Promise<T> {
    const { need } = { ...this.cell.tool, ...prepared }
    if (need.cpus === 0) return run()
    const lease = await leaseGuest({ guest: this.cell.id, ...need })
    try {
      lease.started()
      return await run()
    } finally {
      lease.end('pass')
    }
  }
}

function placeAt({ at, tool }: Cell, programs: ProgramPlace | undefined): ToolPlace {
  return {
    host: at.host,
    get programs() {
      if (!programs) throw new KvitestError(`tool ${tool.name}`, 'it has no pack', { code: 'ENOENT' })
      return programs
    },
  }
}

function missing(name: string): PointResult {
  return { verdict: 'infra', reason: `the tool ran and did not report ${name}`, output: '' }
}

/** Of a point that says nothing about the kernel: no expectation excuses it. */
export function infraError(cell: Cell, detail: string): KvitestError {
  return new KvitestError(`cell ${cell.id}`, `infra: ${detail}`, { infra: true })
}
