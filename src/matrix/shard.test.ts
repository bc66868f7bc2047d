import { expect, test } from 'vitest'
import { cellsOfShard } from './shard.ts'

const ids = ['a > x', 'a > y', 'b > x', 'b > y', 'c > x', 'c > y']
const names = (number: number) => Array.from({ length: number }, (_, at) => `p${at}`)
const deal = (count: number, points: Record<string, string[]>) =>
  Array.from({ length: count }, (_, at) => cellsOfShard(ids, points, { index: at + 1, count }))

test('cells are dealt out in rows of about as many points', () => {
  expect(deal(3, { x: names(9), y: names(9) })).toEqual([ids.slice(0, 2), ids.slice(2, 4), ids.slice(4)])
  // Of x there are many.
  expect(deal(2, { x: names(99), y: [] })).toEqual([ids.slice(0, 3), ids.slice(3)])
})

test.for([1, 2, 3, 4, 5, 6])('%i shards have each cell once, and each shard has one', (count) => {
  for (const points of [{}, { x: names(100) }, { y: names(100) }]) {
    const shards = deal(count, points)
    expect(shards.flat()).toEqual(ids)
    expect(shards.filter((shard) => shard.length === 0)).toEqual([])
  }
})

test('more shards than cells leave the last ones empty', () => {
  const shards = deal(8, { x: names(3), y: names(5) })
  expect(shards.flat()).toEqual(ids)
  expect(shards.slice(6)).toEqual([[], []])
})
