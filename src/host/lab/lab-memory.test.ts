import { mkdtemp, open, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { PageSet, saveMemory } from './lab-memory.ts'

let place: string
/** A private mapping of a file in this process that nobody writes: the largest one. */
let mapping: { path: string; address: number; bytes: number; offset: number }

beforeEach(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-memory-'))
  const lines = (await readFile('/proc/self/maps', 'latin1')).matchAll(
    /^(\w+)-(\w+) r-.p (\w+) \S+ \d+ +(\/.*)$/gm,
  )
  const mappings = [...lines].map(([, from, to, offset, path]) => ({
    path: path!,
    address: Number.parseInt(from!, 16),
    bytes: Number.parseInt(to!, 16) - Number.parseInt(from!, 16),
    offset: Number.parseInt(offset!, 16),
  }))
  const largest = mappings.sort((a, b) => b.bytes - a.bytes)[0]!
  mapping = { ...largest, bytes: Math.min(largest.bytes, 1 << 20) }
})

afterEach(() => rm(place, { recursive: true }))

function allPages(bytes: number): PageSet {
  return new PageSet(Buffer.alloc(bytes / 4096 / 8, 0xff))
}

test('pages of the mapped file are read where the file is known to have data', async () => {
  const { path, address, bytes, offset } = mapping
  const target = join(place, 'ram')

  const { data } = await saveMemory({ pid: process.pid, address, bytes, inFile: allPages(bytes) }, target)

  const expected = Buffer.alloc(bytes)
  const file = await open(path)
  await file.read(expected, 0, bytes, offset)
  await file.close()
  expect((await readFile(target)).equals(expected)).toBe(true)
  expect(data).toBeGreaterThan(bytes / 2)
})

test('pages of the mapped file that it does not have are left out', async () => {
  const { address, bytes } = mapping
  const { data, pages } = await saveMemory({ pid: process.pid, address, bytes }, join(place, 'ram'))
  expect(data).toBe(0)
  expect(pages.bits.equals(PageSet.empty(bytes).bits)).toBe(true)
  expect((await readFile(join(place, 'ram'))).length).toBe(bytes)
})

test('how much will be written at most is told before, and can be refused', async () => {
  const { address, bytes } = mapping
  const asked: number[] = []
  const refused = saveMemory(
    { pid: process.pid, address, bytes, inFile: allPages(bytes) },
    join(place, 'ram'),
    {
      beforeWriting: async (most) => {
        asked.push(most)
        throw new Error('no room')
      },
    },
  )
  await expect(refused).rejects.toThrow('no room')
  expect(asked).toEqual([bytes])
})

test('it can be given up', async () => {
  const { address, bytes } = mapping
  const source = { pid: process.pid, address, bytes, inFile: allPages(bytes) }
  await expect(
    saveMemory(source, join(place, 'ram'), { signal: AbortSignal.abort(new Error('too late')) }),
  ).rejects.toThrow('too late')
})
