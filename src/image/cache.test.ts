import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { cached, cachePath, prune, withLock } from './cache.ts'

let place: string

beforeEach(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-cache-'))
  vi.stubEnv('XDG_CACHE_HOME', place)
})

afterEach(async () => {
  vi.unstubAllEnvs()
  await rm(place, { recursive: true })
})

test('a product is built once, whoever asks at the same time', async () => {
  const build = vi.fn(async (target: string) => {
    await new Promise((resolve) => setTimeout(resolve, 50))
    await writeFile(target, 'made')
  })

  const paths = await Promise.all([1, 2, 3].map(() => cached(['things', 'a'], build)))

  expect(build).toHaveBeenCalledTimes(1)
  expect(new Set(paths)).toEqual(new Set([cachePath('things', 'a')]))
  expect(await readFile(paths[0]!, 'utf8')).toBe('made')
})

test('a build that fails leaves nothing, and the next one is tried anew', async () => {
  const failing = cached(['things', 'a'], async (target) => {
    await writeFile(target, 'half')
    throw new Error('no more')
  })
  await expect(failing).rejects.toThrow('no more')
  expect(await readdir(cachePath('tmp'))).toEqual([])

  await cached(['things', 'a'], (target) => writeFile(target, 'whole'))

  expect(await readFile(cachePath('things', 'a'), 'utf8')).toBe('whole')
})

test('a lock is free again after its holder threw', async () => {
  await expect(withLock('l', () => Promise.reject(new Error('thrown')))).rejects.toThrow('thrown')
  expect(await withLock('l', async () => 'held')).toBe('held')
})

test('the oldest products go, those in use stay', async () => {
  for (const name of ['old', 'older', 'used'])
    await cached(['things', name], (target) => writeFile(target, name))
  const hours = (n: number) => new Date(Date.now() - n * 3_600_000)
  await utimes(cachePath('things', 'old'), hours(2), hours(2))
  await utimes(cachePath('things', 'older'), hours(3), hours(3))

  await prune('things', 1)

  expect(await readdir(cachePath('things'))).toEqual(['used'])
})

test('asking for a product marks it as used', async () => {
  const ask = () => cached(['things', 'a'], (target) => writeFile(target, 'a'))
  await ask()
  await utimes(cachePath('things', 'a'), new Date(0), new Date(0))

  await ask()
  await prune('things', 0)

  expect(await readdir(cachePath('things'))).toEqual(['a'])
})

test('a cache that is a file is named with what to do', async () => {
  await writeFile(join(place, 'kvitest'), '')
  await expect(cached(['things', 'a'], async () => {})).rejects.toMatchObject({
    message: expect.stringMatching(
      /^write the cache: .*not a directory \(E(NOTDIR|EXIST)\); set XDG_CACHE_HOME to a directory$/,
    ),
  })
})
