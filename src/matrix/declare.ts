/** What a matrix is: axes, which combinations of them are cells, and which of those are left out and why. */
import { KvitestError } from '../native/error.ts'
import { globMatches } from '../verdict/expectations.ts'
import { type Axis, axes, axisValue, type Coordinates, cellName, isAmbiguous, unnamed } from './axes.ts'
import type { FingerprintDifference } from './fingerprint.ts'
import { faultOf, type GuestMachine, type ToolSetup } from './machine.ts'
import type { Tool } from './tool.ts'

/** Names a set of cells; a glob for each axis, absent: all. */
export type CellPattern = Partial<Record<Axis, string>>

export interface MatrixDeclaration {
  name: string
  tools: Tool[]
  /** `local`, `lab:debian:6.1-cloud` */
  hosts: string[]
  /** Kernels that tools boot as guests; default none, which leaves tools that take a guest without a cell. */
  guests?: string[]
  /** What tools have their guests run by: `kvm`, `tcg`. A tool has a cell for each of these that it has; default `kvm`. */
  accelerators?: string[]
  /**
   * Machines that tools give their guests, by name; those that boot none have no cell but for `default`. That one is what
   * a tool has by itself: `{ default: {}, smp: { cpus: 2 } }`. Default: it alone.
   */
  machines?: Record<string, GuestMachine>
  /** Only combinations that one of these names are cells. */
  only?: CellPattern[]
  /** Cells that are not run, and why; they stay in the count. */
  except?: (CellPattern & { reason: string })[]
  /** What the points of a cell are compared with: those of the cell that is the same but for these axes. */
  baseline?: Partial<Record<Axis, string>>
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
  /** `lab:debian:6.12-cloud > qemu-7.2 > debian:6.12-cloud`: the names of its blocks. */
  id: string
  at: Coordinates
  tool: Tool
  setup: ToolSetup
  /** Why it is not run. */
  excepted: string | undefined
}

function refuse(matrix: MatrixDeclaration, detail: string): never {
  throw new KvitestError(`matrix ${matrix.name}`, detail, { code: 'EINVAL', infra: false })
}

export function cellMatches(pattern: CellPattern, at: Coordinates): boolean {
  return axes.every((axis) => {
    const [glob, value] = [pattern[axis], axisValue(at, axis)]
    return glob === undefined || (value !== undefined && globMatches(glob, value))
  })
}

const own: Record<string, GuestMachine> = { [unnamed.machine]: {} }

/**
 * The cell at these coordinates, whether the matrix has it or not: of its tools and machines, on any host, with any
 * guest. Throws a KvitestError for one that cannot be.
 */
export function cellAt(matrix: MatrixDeclaration, coordinates: Coordinates): Cell {
  const id = cellName(coordinates)
  const no = (detail: string): never => refuse(matrix, `'${id}' is no cell: ${detail}`)
  const { tool: name, guest } = coordinates
  const { tools, machines = {} } = matrix
  const tool =
    tools.find((one) => one.name === name) ?? no(`tools are ${tools.map((one) => one.name).join(', ')}`)
  if (tool.takesGuest && guest === undefined) no(`${name} boots a guest, HOST > ${name} > GUEST`)
  if (!tool.takesGuest && guest !== undefined) no(`${name} boots no guest`)
  const accelerator = coordinates.accelerator ?? unnamed.accelerator
  if (!acceleratorsOf(tool).includes(accelerator)) no(`${name} has ${acceleratorsOf(tool).join(' and ')}`)
  const { machine } = coordinates
  if (machine !== undefined && machine !== unnamed.machine && !tool.takesGuest) no(`${name} boots no guest`)
  const known = { ...own, ...machines }
  const spec = known[machine ?? unnamed.machine] ?? no(`machines are ${Object.keys(known).join(', ')}`)
  return { id, at: coordinates, tool, setup: { accelerator, machine: spec }, excepted: undefined }
}

function acceleratorsOf({ accelerators = [unnamed.accelerator] }: Tool): readonly string[] {
  return accelerators
}

/** Throws for names and machines that cannot be meant, whatever the cells are. */
function checkNames(matrix: MatrixDeclaration): void {
  const { tools, hosts, guests = [], accelerators = [], machines = own, baseline } = matrix
  for (const [axis, names] of Object.entries({
    tool: tools.map(({ name }) => name),
    host: hosts,
    guest: guests,
    accelerator: accelerators,
  })) {
    const twice = names.find((name, at) => names.indexOf(name) !== at)
    if (twice !== undefined) refuse(matrix, `the ${axis} ${twice} is there twice`)
  }
  const ambiguous = tools.find(({ name }) => isAmbiguous(name))
  if (ambiguous) refuse(matrix, `the name of the tool '${ambiguous.name}' would be read as that of a cell`)
  const nobodys = accelerators.find((one) => !tools.some((tool) => acceleratorsOf(tool).includes(one)))
  if (nobodys !== undefined) refuse(matrix, `no tool has the accelerator ${nobodys}`)
  for (const [name, machine] of Object.entries(machines)) {
    if (!/^[\w.-]+$/.test(name))
      refuse(matrix, `the name of the machine '${name}' has more than letters and numbers`)
    if (name === unnamed.machine && Object.keys(machine).length > 0)
      refuse(
        matrix,
        `the machine ${name} is what a tool has by itself; give ${JSON.stringify(machine)} another name`,
      )
    const fault = faultOf(machine)
    if (fault !== undefined) refuse(matrix, `machine ${name}: ${fault}`)
  }
  if (baseline?.host !== undefined && !hosts.includes(baseline.host))
    refuse(matrix, `the baseline ${baseline.host} is none of its hosts`)
}

/**
 * The cells of a matrix, those of a host together. Throws a KvitestError for one that says what cannot be meant: a
 * name twice, a pattern that names no cell, an exception without a reason, a machine that a tool does not have.
 */
export function expandMatrix(matrix: MatrixDeclaration): Cell[] {
  checkNames(matrix)
  const { only, except = [], differences = [], baseline } = matrix
  const { accelerators = [unnamed.accelerator], machines = own } = matrix
  const all = matrix.hosts.flatMap((host) =>
    matrix.tools.flatMap((tool) =>
      (tool.takesGuest ? (matrix.guests ?? []) : [undefined]).flatMap((guest) =>
        accelerators
          .filter((one) => acceleratorsOf(tool).includes(one))
          .flatMap((accelerator) =>
            (tool.takesGuest ? Object.keys(machines) : [unnamed.machine]).map((machine) =>
              coordinates({ host, tool: tool.name, guest, accelerator, machine }),
            ),
          ),
      ),
    ),
  )
  const baselines = baseline && Object.keys(baseline).length > 0 ? [baseline] : []
  for (const [list, patterns] of Object.entries({
    only: only ?? [],
    except,
    differences,
    baseline: baselines,
  })) {
    const idle = patterns.find((pattern) => !all.some((at) => cellMatches(pattern, at)))
    if (idle) refuse(matrix, `${list}: ${JSON.stringify(idle)} names no cell`)
  }
  if (except.some(({ reason }) => reason.trim() === '')) refuse(matrix, 'except: an entry without a reason')
  if (differences.some(({ reason }) => reason.trim() === ''))
    refuse(matrix, 'differences: an entry without a reason')
  if (differences.length > 0 && !baseline) refuse(matrix, 'differences: there is no baseline to differ from')
  const cells = all
    .filter((at) => !only || only.some((pattern) => cellMatches(pattern, at)))
    .map((at) => ({
      ...cellAt(matrix, at),
      excepted: except.find((pattern) => cellMatches(pattern, at))?.reason,
    }))
  if (cells.length === 0) refuse(matrix, 'it has no cell')
  for (const { at, tool, setup, excepted } of cells) {
    if (excepted !== undefined || Object.keys(setup.machine).length === 0) continue
    const why = tool.refusesMachine ? tool.refusesMachine(setup.machine) : 'it has its own only'
    if (why !== undefined)
      refuse(
        matrix,
        `${tool.name} does not have the machine ${at.machine}: ${why}; leave it out by only or except`,
      )
  }
  return cells
}

/** Without what is as ever. */
function coordinates(at: { [axis in Axis]: string | undefined }): Coordinates {
  const said = Object.entries(at).filter(
    ([axis, value]) => value !== undefined && value !== (unnamed as Record<string, string>)[axis],
  )
  return Object.fromEntries(said) as unknown as Coordinates
}

/** Where the cell is that this one is compared with; undefined for one that is a baseline itself, and without any. */
export function baselineOf({ baseline }: MatrixDeclaration, at: Coordinates): Coordinates | undefined {
  if (!baseline) return undefined
  const all = Object.fromEntries(axes.map((axis) => [axis, baseline[axis] ?? axisValue(at, axis)]))
  // Of a tool without a guest there is none to be another one.
  const other = coordinates({ ...(all as Record<Axis, string>), guest: at.guest && all.guest })
  return cellName(other) === cellName(at) ? undefined : other
}
