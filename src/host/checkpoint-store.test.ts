import { expect, test } from 'vitest'
import type { CheckpointInfo } from '../native/contract.ts'
import { CheckpointStore, type Storable } from './checkpoint-store.ts'

/** A STAND-IN for a checkpoint: it only says how large it is and whether it was released. */
class Sized implements Storable {
  readonly info: CheckpointInfo
  released = 0

  constructor(bytes: number) {
    const payload = { kind: 'linux', kernel: '/k', cmdline: '' } as const
    this.info = { bytes, spec: { name: 's', cpus: 1, memory: bytes, payload, devices: [] } }
  }

  release(): void {
    this.released++
  }
}

async function keep(store: CheckpointStore<Sized>, key: string, bytes: number): Promise<Sized> {
  const owner = {}
  const checkpoint = new Sized(bytes)
  expect(await store.take(owner, key)).toBeUndefined()
  store.keep(owner, key, { checkpoint, sidecar: key })
  store.release(owner)
  return checkpoint
}

test('what was kept is found by its key, with its sidecar', async () => {
  const store = new CheckpointStore<Sized>(100)
  const checkpoint = await keep(store, 'a', 10)
  expect(await store.take({}, 'a')).toMatchObject({ checkpoint, sidecar: 'a' })
  expect(store.keys()).toEqual(['a'])
})

test('the least recently used goes first when room is needed', async () => {
  const store = new CheckpointStore<Sized>(30)
  const [a, b, c] = [await keep(store, 'a', 10), await keep(store, 'b', 10), await keep(store, 'c', 10)]
  const reader = {}
  await store.take(reader, 'a')
  store.release(reader)
  await keep(store, 'd', 10)
  expect(store.keys()).toEqual(['c', 'a', 'd'])
  expect([a.released, b.released, c.released]).toEqual([0, 1, 0])
  expect(store.bytes()).toBe(30)
})

test('one that is being forked from never goes', async () => {
  const store = new CheckpointStore<Sized>(10)
  const a = await keep(store, 'a', 10)
  const reader = {}
  await store.take(reader, 'a')
  await keep(store, 'b', 10)
  expect([store.keys(), a.released]).toEqual([['a'], 0])
  store.release(reader)
  await keep(store, 'c', 10)
  expect([store.keys(), a.released]).toEqual([['c'], 1])
})

test('one that is larger than the limit serves who waits for it, then goes', async () => {
  const store = new CheckpointStore<Sized>(10)
  const maker = {}
  const checkpoint = new Sized(50)
  await store.take(maker, 'a')
  store.keep(maker, 'a', { checkpoint, sidecar: 0 })
  expect(await store.take(maker, 'a')).toMatchObject({ checkpoint })
  store.release(maker)
  expect([store.keys(), checkpoint.released]).toEqual([[], 1])
})

test('of two that want one key at once, one makes it and the other waits', async () => {
  const store = new CheckpointStore<Sized>(100)
  const maker = {}
  expect(await store.take(maker, 'a')).toBeUndefined()
  let waited = true
  const waiting = store.take({}, 'a').then((kept) => {
    waited = false
    return kept
  })
  await new Promise(setImmediate)
  expect(waited).toBe(true)
  const checkpoint = new Sized(1)
  store.keep(maker, 'a', { checkpoint, sidecar: 0 })
  expect(await waiting).toMatchObject({ checkpoint })
})

test('when the maker fails, the next one tries', async () => {
  const store = new CheckpointStore<Sized>(100)
  const [first, second, third] = [{}, {}, {}]
  await store.take(first, 'a')
  const answers = [store.take(second, 'a'), store.take(third, 'a')]
  store.release(first)
  expect(await answers[0]).toBeUndefined()
  const checkpoint = new Sized(1)
  store.keep(second, 'a', { checkpoint, sidecar: 0 })
  expect(await answers[1]).toMatchObject({ checkpoint })
})

test('closing releases everything once, and refuses who still waits', async () => {
  const store = new CheckpointStore<Sized>(100)
  const a = await keep(store, 'a', 10)
  await store.take({}, 'b')
  const waiting = store.take({}, 'b')
  store.close()
  await expect(waiting).rejects.toThrow('find a checkpoint: the store was closed')
  const late = new Sized(1)
  store.keep({}, 'b', { checkpoint: late, sidecar: 0 })
  expect([a.released, late.released, store.keys()]).toEqual([1, 1, []])
})
