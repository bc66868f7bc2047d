/** The cells and points that a matrix is expected to have, stored beside it: `compat.cells.json` of `compat.matrix.ts`. */
import { readFileSync, writeFileSync } from 'node:fs'
import { KvitestError } from '../native/error.ts'
import { cellBlocks } from './axes.ts'

/** The test that compares them with those that the matrix has. */
export const CELLS_TEST = 'the cells are those that are stored'

export interface ExpectedCells {
  /** Ids of all cells, those that are excepted too. */
  cells: string[]
  /** Names of the points of each tool, the same on every host: by its cells' names without the host. */
  points: Record<string, string[]>
}

/** The key of the points of the cell with this id: `qemu-7.2 > debian:6.12-cloud`. */
export function pointsKey(id: string): string {
  return cellBlocks(id).slice(1).join(' > ')
}

export function cellsPath(matrixFile: string): string {
  return matrixFile.replace(/(\.matrix)?\.[cm]?ts$/, '.cells.json')
}

function isNames(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((name) => typeof name === 'string')
}

/** Empty when there is no such file yet. Throws a KvitestError for one that cannot be used. */
export function readCells(path: string): ExpectedCells {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { cells: [], points: {} }
    throw error
  }
  let value: Partial<ExpectedCells> | null = null
  try {
    value = JSON.parse(text)
  } catch {
    // Said below.
  }
  const { cells, points } = value ?? {}
  if (isNames(cells) && typeof points === 'object' && Object.values(points).every(isNames)) {
    return { cells, points }
  }
  throw new KvitestError('read the expected cells', `${path} is damaged`, {
    code: 'EBADMSG',
    hint: 'restore it, or make it anew with vitest -u',
    infra: false,
  })
}

export function writeCells(path: string, { cells, points }: ExpectedCells): void {
  const sorted = Object.fromEntries(Object.entries(points).toSorted(([a], [b]) => (a < b ? -1 : 1)))
  writeFileSync(path, `${JSON.stringify({ cells, points: sorted }, null, 2)}\n`)
}

/** One line that says what is here and not there; undefined when they hold the same. */
export function difference(
  what: string,
  expected: readonly string[],
  found: readonly string[],
): string | undefined {
  const lost = expected.filter((name) => !found.includes(name))
  const added = found.filter((name) => !expected.includes(name))
  if (lost.length + added.length === 0) return undefined
  const list = (sign: string, names: string[]) => names.map((name) => `${sign}${name}`)
  return `${what}: ${[...list('-', lost), ...list('+', added)].join(', ')}; write them with vitest -u when that is meant`
}
