/** What a matrix is: axes, which combinations of them are cells, and which of those are left out and why. */
import { KvitestError } from '../native/error.ts'
import { globMatches } from '../verdict/expectations.ts'
import type { FingerprintDifference } from './fingerprint.ts'
import type { Tool } from './tool.ts'

/** Names a set of cells; a glob for each axis, absent: all. */
export interface CellPattern {
  tool?: string
  host?: string
  guest?: string
}

export interface MatrixDeclaration {
  name: string
  tools: Tool[]
  /** `local`, `lab:debian:6.1-cloud` */
  hosts: string[]
  /** Kernels that tools boot as guests; default none, which leaves tools that take a guest without a cell. */
  guests?: string[]
  /** Only combinations that one of these names are cells. */
  only?: CellPattern[]
  /** Cells that are not run, and why; they stay in the count. */
  except?: (CellPattern & { reason: string })[]
  /** Whose points the others of the same tool and guest are compared with. */
  baseline?: { host: string }
  /** A red cell is bisected toward the baseline at the end of the run; so it is with KVITEST_BISECT=1. Default false. */
  bisect?: boolean
  /**
   * Cells file of another matrix with these tools, relative to this one's: its points are theirs. For hosts that change
   * with the archive (servedHosts): what cells there are is not stored then.
   */
  pointsOf?: string
  /** What a guest may see differently than on the baseline, and why; by default nothing. */
  differences?: FingerprintDifference[]
}

export interface Cell {
  /** `lab:debian:6.1-cloud > qemu-7.2 > debian:6.12-cloud`: the names of its blocks. */
  id: string
  tool: Tool
  host: string
  guest: string | undefined
  /** Why it is not run. */
  excepted: string | undefined
}

function refuse(matrix: MatrixDeclaration, detail: string): never {
  throw new KvitestError(`matrix ${matrix.name}`, detail, { code: 'EINVAL', infra: false })
}

export function cellMatches(pattern: CellPattern, cell: Pick<Cell, 'tool' | 'host' | 'guest'>): boolean {
  const axis = (glob: string | undefined, value: string | undefined) =>
    glob === undefined || (value !== undefined && globMatches(glob, value))
  return (
    axis(pattern.tool, cell.tool.name) && axis(pattern.host, cell.host) && axis(pattern.guest, cell.guest)
  )
}

/**
 * The cells of a matrix, those of a host together. Throws a KvitestError for one that says what cannot be meant: a
 * name twice, a pattern that names no cell, an exception without a reason.
 */
export function expandMatrix(matrix: MatrixDeclaration): Cell[] {
  for (const [axis, names] of Object.entries({
    tool: matrix.tools.map(({ name }) => name),
    host: matrix.hosts,
    guest: matrix.guests ?? [],
  })) {
    const twice = names.find((name, at) => names.indexOf(name) !== at)
    if (twice !== undefined) refuse(matrix, `the ${axis} ${twice} is there twice`)
  }
  const { only, except = [], differences = [], baseline } = matrix
  if (baseline && !matrix.hosts.includes(baseline.host)) {
    refuse(matrix, `the baseline ${baseline.host} is none of its hosts`)
  }
  const all = matrix.hosts.flatMap((host) =>
    matrix.tools.flatMap((tool) =>
      (tool.takesGuest ? (matrix.guests ?? []) : [undefined]).map((guest) => ({ tool, host, guest })),
    ),
  )
  for (const [list, patterns] of Object.entries({ only: only ?? [], except, differences })) {
    const idle = patterns.find((pattern) => !all.some((cell) => cellMatches(pattern, cell)))
    if (idle) refuse(matrix, `${list}: ${JSON.stringify(idle)} names no cell`)
  }
  if (except.some(({ reason }) => reason.trim() === '')) refuse(matrix, 'except: an entry without a reason')
  if (differences.some(({ reason }) => reason.trim() === ''))
    refuse(matrix, 'differences: an entry without a reason')
  if (differences.length > 0 && !baseline) refuse(matrix, 'differences: there is no baseline to differ from')
  const cells = all
    .filter((cell) => !only || only.some((pattern) => cellMatches(pattern, cell)))
    .map((cell) => ({
      ...cell,
      id: [cell.host, cell.tool.name, ...(cell.guest === undefined ? [] : [cell.guest])].join(' > '),
      excepted: except.find((pattern) => cellMatches(pattern, cell))?.reason,
    }))
  if (cells.length === 0) refuse(matrix, 'it has no cell')
  return cells
}
