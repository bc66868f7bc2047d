/** The axes of a matrix, and how the name of a cell says where it is on each. */

export interface Coordinates {
  host: string
  tool: string
  /** Kernel that the tool boots; absent for a tool that boots none. */
  guest?: string
  /** What the tool has its guests run by; absent: `kvm`. */
  accelerator?: string
  /** Which of the matrix's machines the tool gives its guest; absent: `default`, its own. */
  machine?: string
}

export type Axis = keyof Coordinates

/** In the order of a name, which is the one of every list by axis. */
export const axes: readonly Axis[] = ['host', 'tool', 'guest', 'accelerator', 'machine']

/** Where a cell is whose name does not say it. What it does say stands beside the tool: `qemu-7.2 accelerator:tcg`. */
export const unnamed = { accelerator: 'kvm', machine: 'default' } as const

const besides = Object.keys(unnamed) as (keyof typeof unnamed)[]

/** Undefined only for the guest of a tool that boots none. */
export function axisValue(cell: Coordinates, axis: Axis): string | undefined {
  return cell[axis] ?? (unnamed as Partial<Record<Axis, string>>)[axis]
}

/** `lab:debian:6.12-cloud > qemu-7.2 accelerator:tcg > debian:6.12-cloud` */
export function cellName(cell: Coordinates): string {
  const { host, tool, guest } = cell
  const notes = besides.flatMap((axis) => {
    const value = axisValue(cell, axis)
    return value === unnamed[axis] ? [] : [` ${axis}:${value}`]
  })
  return [host, `${tool}${notes.join('')}`, ...(guest === undefined ? [] : [guest])].join(' > ')
}

/** The blocks around the tests of a cell: never the beginning of another cell's. */
export function cellBlocks(id: string): string[] {
  return id.split(' > ')
}

/**
 * Its place on these axes as tags of vitest's: `host:local`, `tool:qemu-7.2`, `machine:default`. A character that an
 * expression of tags reads as its own is `_`.
 */
export function cellTags(cell: Coordinates): string[] {
  return axes.flatMap((axis) => {
    const value = axisValue(cell, axis)
    return value === undefined ? [] : [`${axis}:${value.replaceAll(/[\s!()*|&]/g, '_')}`]
  })
}

const note = new RegExp(` (${besides.join('|')}):(\\S+)$`)

/** Of a cell's name, or of what shall be one. */
export function cellAxes(id: string): Coordinates {
  const [host = '', named = '', guest] = cellBlocks(id)
  const cell: Coordinates = { host, tool: named, ...(guest === undefined ? {} : { guest }) }
  for (let match = note.exec(cell.tool); match; match = note.exec(cell.tool)) {
    cell.tool = cell.tool.slice(0, match.index)
    cell[match[1] as Axis] = match[2]!
  }
  return cell
}

/** True for what would be read as something else in a cell's name. */
export function isAmbiguous(tool: string): boolean {
  return tool.includes(' > ') || note.test(tool)
}

/** Values of one cell where it is elsewhere than another: `lab:debian:6.1-cloud`, `machine default`. */
export function whereElse(cell: Coordinates, other: Coordinates): string {
  const values = axes.flatMap((axis) => {
    const value = axisValue(cell, axis)
    if (value === axisValue(other, axis)) return []
    return [axis === 'host' ? String(value) : `${axis} ${value ?? 'none'}`]
  })
  return values.join(', ')
}
