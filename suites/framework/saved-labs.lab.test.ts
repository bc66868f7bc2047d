/** The end of a run saves its lab, and the next run goes on from it. Which ends do not: saved-labs.long.test.ts. */
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { startMarked } from './marked-process.ts'
import { type OwnCache, ownCache } from './own-cache.ts'

const kvitestRun = ['scripts/kvitest', 'run', '--host', 'lab', '--', 'echo', 'in the guest']

let cache: OwnCache

beforeEach(async () => {
  cache = await ownCache()
})

afterEach(() => cache[Symbol.asyncDispose]())

test('kvitest run saves its lab, and the next one goes on from it', async () => {
  const first = await startMarked(kvitestRun, { env: cache.env, ownLabs: true, input: '' }).finished
  expect(first).toMatchObject({ status: 0, stdout: 'in the guest\n', stderr: '' })
  const [key] = await cache.savedLabs()
  expect(key).toMatch(/^[0-9a-f]{32}$/)
  const manifest = join(cache.directory, 'labs', key!, 'manifest.json')
  const before = await stat(manifest)

  const second = startMarked(kvitestRun, { env: cache.env, ownLabs: true, input: '' })
  expect(await second.finished).toMatchObject({ status: 0, stdout: 'in the guest\n', stderr: '' })

  // The same one, used again: nothing new came into the lab.
  const after = await stat(manifest)
  expect(after.ino).toBe(before.ino)
  expect(after.mtimeMs).toBeGreaterThan(before.mtimeMs)
  expect(await second.survivors()).toEqual([])
})
