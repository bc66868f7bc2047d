/** One part of a matrix's cells, where several runs have a part each: vitest's `--shard`. */
import { type ExpectedCells, pointsKey } from './cells-file.ts'

export interface Shard {
  /** From 1. */
  index: number
  count: number
}

/**
 * The cells of one shard, by their ids: a row of them in the matrix's order, in which those of a host stand together, with
 * about its share of the stored points. Made of nothing else, so that runs that know nothing of each other agree. None is
 * empty where there are as many cells.
 */
export function cellsOfShard(
  ids: readonly string[],
  points: ExpectedCells['points'],
  { index, count }: Shard,
): string[] {
  // The last test of a cell is one too.
  const sizes = ids.map((id) => (points[pointsKey(id)]?.length ?? 0) + 1)
  const share = sizes.reduce((sum, size) => sum + size, 0) / count
  const own: string[] = []
  let shard = 1
  let dealt = 0
  let taken = 0
  for (const [at, id] of ids.entries()) {
    const isFull = dealt + sizes[at]! / 2 >= share * shard
    const isNeeded = ids.length - at <= count - shard
    if (taken > 0 && shard < count && (isFull || isNeeded)) {
      shard++
      taken = 0
    }
    if (shard === index) own.push(id)
    dealt += sizes[at]!
    taken++
  }
  return own
}
