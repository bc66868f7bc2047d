import { mkdir, mkdtemp, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { cachePath } from '../image/cache.ts'
import { ageText, cache, parseAge, sizeText } from './cache.ts'

let place: string
let said: string[]
const lab = 'ab'.repeat(16)

beforeEach(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-cli-cache-'))
  vi.stubEnv('XDG_CACHE_HOME', place)
  said = []
  vi.spyOn(console, 'log').mockImplementation((line: string) => void said.push(line))
  await product(['vmlinux', `${'1'.repeat(64)}.elf`], 2 << 20, 50)
  await product(['labs', lab, 'ram'], 1 << 20, 3)
  const contents = {
    format: 1,
    kernel: 'debian:6.12-cloud',
    created: '',
    ram: { size: 1, data: 1, modified: 1 },
    pages: { sha256: '0'.repeat(64) },
    state: { size: 1, sha256: '0'.repeat(64) },
    contents: [],
  }
  await product(['labs', lab, 'manifest.json'], JSON.stringify(contents), 3)
  await age(cachePath('labs', lab), 3)
})

afterEach(async () => {
  vi.restoreAllMocks()
  vi.unstubAllEnvs()
  await rm(place, { recursive: true })
})

async function age(path: string, days: number): Promise<void> {
  const used = new Date(Date.now() - days * 86_400_000)
  await utimes(path, used, used)
}

async function product(parts: string[], content: number | string, days: number): Promise<void> {
  await mkdir(cachePath(...parts.slice(0, -1)), { recursive: true })
  await writeFile(cachePath(...parts), typeof content === 'string' ? content : Buffer.alloc(content, 1))
  await age(cachePath(...parts), days)
}

test('ls tells kind, what, size and last use, and the total', async () => {
  expect(await cache(['ls'])).toBe(0)
  expect(said).toEqual([
    'vmlinux    111111111111.elf                2.0 MiB  50 d ago',
    'saved lab  debian:6.12-cloud abababababab  1.0 MiB  3 d ago',
    `3.0 MiB in 2 entries: ${join(place, 'kvitest')}`,
  ])
})

test('prune removes what was not used for 30 days', async () => {
  expect(await cache(['prune'])).toBe(0)
  expect(said).toEqual([
    'removed  vmlinux  111111111111.elf  2.0 MiB  50 d ago',
    `removed 2.0 MiB in 1 entry: ${join(place, 'kvitest')}`,
  ])
})

test('prune --max leaves the most recently used', async () => {
  await cache(['prune', '--max', '2M'])
  said = []
  await cache(['ls'])
  expect(said[0]).toMatch(/^saved lab {2}debian:6.12-cloud/)
  expect(said).toHaveLength(2)
})

test('prune --all leaves nothing', async () => {
  await cache(['prune', '--all'])
  said = []
  await cache(['ls'])
  expect(said).toEqual([`0 KiB in 0 entries: ${join(place, 'kvitest')}`])
})

test('wrong arguments are named, and nothing is removed', async () => {
  await expect(cache(['prune', '--older-than', 'long'])).rejects.toThrow(
    'read an age: long: not an age; write 12h, 7d or 4w',
  )
  await expect(cache(['prune', '--max', 'much'])).rejects.toThrow('much: not a size')
  await expect(cache(['prune', '--all', '--max', '1G'])).rejects.toThrow('more than one of')
  expect(await cache(['empty'])).toBe(2)
  said = []
  await cache(['ls'])
  expect(said).toHaveLength(3)
})

test('ages and sizes', () => {
  expect(['90s', '5m', '12h', '7d', '4w'].map(parseAge)).toEqual([
    90_000, 300_000, 43_200_000, 604_800_000, 2_419_200_000,
  ])
  expect([1000, 119_000, 120_000, 7_200_000, 172_800_000].map(ageText)).toEqual([
    '1 s',
    '119 s',
    '2 m',
    '2 h',
    '2 d',
  ])
  expect([1, 2 ** 20, 3 * 2 ** 30].map(sizeText)).toEqual(['1 KiB', '1.0 MiB', '3.0 GiB'])
})
