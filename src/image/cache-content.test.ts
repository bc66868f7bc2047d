import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, onTestFinished, test, vi } from 'vitest'
import { cachePath } from './cache.ts'
import { cacheEntries, pruneCache } from './cache-content.ts'

let place: string
const day = 86_400_000

beforeEach(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-content-'))
  vi.stubEnv('XDG_CACHE_HOME', place)
})

afterEach(async () => {
  vi.unstubAllEnvs()
  await rm(place, { recursive: true })
})

/** A product of 64 KiB, used so many days ago. */
async function product(folder: string, name: string, days: number): Promise<void> {
  await mkdir(cachePath(folder), { recursive: true })
  await writeFile(cachePath(folder, name), Buffer.alloc(64 << 10, 1))
  const used = new Date(Date.now() - days * day)
  await utimes(cachePath(folder, name), used, used)
}

async function left(): Promise<string[]> {
  return (await cacheEntries()).map(({ folder, name }) => `${folder}/${name}`).sort()
}

test('lists products by use, folders of small files as one, the bookkeeping not at all', async () => {
  await product('vmlinux', 'new.elf', 1)
  await product('vmlinux', 'old.elf', 9)
  await product('names', '6.1.json', 3)
  await product('names', '6.12.json', 3)
  await product('locks', 'l', 1)
  await product('users', '1-1', 1)
  const entries = await cacheEntries()
  expect(entries.map(({ folder, name }) => [folder, name])).toEqual([
    ['vmlinux', 'old.elf'],
    ['vmlinux', 'new.elf'],
    ['names', ''],
  ])
  expect(entries[0]!.bytes).toBe(64 << 10)
})

test('what was not used for long goes', async () => {
  await product('vmlinux', 'new.elf', 1)
  await product('labs', 'old', 9)
  const { removed } = await pruneCache({ olderThan: 7 * day })
  expect(removed.map(({ name }) => name)).toEqual(['old'])
  expect(await left()).toEqual(['vmlinux/new.elf'])
})

test('the least recently used go until the rest is small enough', async () => {
  await product('vmlinux', 'a', 3)
  await product('initramfs', 'b', 2)
  await product('labs', 'c', 1)
  await pruneCache({ max: 130 << 10 })
  expect(await left()).toEqual(['initramfs/b', 'labs/c'])
})

test('what a living process has used stays', async () => {
  await product('vmlinux', 'before', 1)
  const program = `
    const { cached } = await import(${JSON.stringify(new URL('cache.ts', import.meta.url).href)})
    const { writeFile } = await import('node:fs/promises')
    await cached(['vmlinux', 'mine'], (target) => writeFile(target, 'x'))
    console.log('used')
    setInterval(() => {}, 1000)
  `
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  await once(child.stdout, 'data')

  const { removed, inUse } = await pruneCache({ olderThan: 0 })
  expect([removed, inUse].map((list) => list.map(({ name }) => name))).toEqual([['before'], ['mine']])

  child.kill('SIGKILL')
  await once(child, 'exit')
  await pruneCache({ olderThan: 0 })
  expect(await left()).toEqual([])
  expect(await readdir(cachePath('users'))).toEqual([])
})

test('what a killed process was making is swept', async () => {
  await product('tmp', '999999999-x', 0)
  await product('tmp', `${process.pid}-x`, 0)
  await pruneCache({})
  expect(await readdir(cachePath('tmp'))).toEqual([`${process.pid}-x`])
})

test('a cache that is not there yet is empty', async () => {
  expect(await cacheEntries()).toEqual([])
  expect(await pruneCache({ olderThan: 0 })).toEqual({ removed: [], inUse: [] })
})
