import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { BlobStore } from './blob-store.ts'

let place: string
let store: BlobStore

beforeEach(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-blobs-'))
  store = new BlobStore(place, 100)
})

afterEach(() => rm(place, { recursive: true }))

function blob(letter: string, size = 40): { name: string; data: Buffer } {
  const data = Buffer.alloc(size, letter)
  return { name: createHash('sha256').update(data).digest('hex'), data }
}

async function put(owner: object, { name, data }: { name: string; data: Buffer }): Promise<void> {
  expect(await store.ensure(owner, name, data.length)).toBe('send')
  await store.write(owner, name, data)
}

test('a blob is there once all of it came, and only then', async () => {
  const { name, data } = blob('a')
  const owner = {}

  await store.ensure(owner, name, data.length)
  await store.write(owner, name, data.subarray(0, 10))
  expect(await readdir(place)).toEqual([`${name}.partial`])
  await Promise.all([
    store.write(owner, name, data.subarray(10, 30)),
    store.write(owner, name, data.subarray(30)),
  ])

  expect(await readFile(store.path(name))).toEqual(data)
  expect(await store.ensure({}, name, data.length)).toBe('present')
})

test('who asks while another sends waits, and finds it there', async () => {
  const { name, data } = blob('a')
  const [sender, other] = [{}, {}]
  await store.ensure(sender, name, data.length)

  const answer = store.ensure(other, name, data.length)
  await store.write(sender, name, data)

  expect(await answer).toBe('present')
})

test('who waits for a sender that ends sends it anew', async () => {
  const { name, data } = blob('a')
  const [sender, other] = [{}, {}]
  await store.ensure(sender, name, data.length)
  await store.write(sender, name, data.subarray(0, 20))

  const answer = store.ensure(other, name, data.length)
  await store.release(sender)

  expect(await answer).toBe('send')
  await store.write(other, name, data)
  expect(await readFile(store.path(name))).toEqual(data)
})

test('the least recently used one makes room', async () => {
  const owner = {}
  await put(owner, blob('a'))
  await put(owner, blob('b'))
  await store.release(owner)
  await store.ensure(owner, blob('a').name, 40)
  await store.release(owner)

  await put(owner, blob('c'))

  expect((await readdir(place)).sort()).toEqual([blob('a').name, blob('c').name].sort())
})

test('what a session holds stays, and what does not fit beside it is refused', async () => {
  await put({}, blob('a'))
  await put({}, blob('b'))

  await expect(store.ensure({}, blob('c').name, 40)).rejects.toMatchObject({ code: 'ENOSPC' })
  expect((await readdir(place)).sort()).toEqual([blob('a').name, blob('b').name].sort())
})

test('more bytes than promised are refused and forgotten', async () => {
  const { name } = blob('a')
  const owner = {}
  await store.ensure(owner, name, 40)

  await expect(store.write(owner, name, Buffer.alloc(41))).rejects.toMatchObject({ code: 'EILSEQ' })
  expect(await readdir(place)).toEqual([])
})

test('nobody writes what another sends', async () => {
  const { name, data } = blob('a')
  await store.ensure({}, name, data.length)
  await expect(store.write({}, name, data)).rejects.toMatchObject({ code: 'EINVAL' })
})

test('a name that is no sha256 is refused', async () => {
  await expect(store.ensure({}, '../../etc/passwd', 1)).rejects.toMatchObject({ code: 'EINVAL' })
})

test('an empty file needs no sending', async () => {
  const { name } = blob('a', 0)
  expect(await store.ensure({}, name, 0)).toBe('present')
  expect(await readFile(store.path(name))).toHaveLength(0)
})
