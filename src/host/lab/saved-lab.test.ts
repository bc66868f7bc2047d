import { mkdtemp, readdir, readFile, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { PageSet } from './lab-memory.ts'
import { cacheLimit, labToSave, SavedLabs, savedLabKey } from './saved-lab.ts'

let place: string
let notes: string[]
let store: SavedLabs

const keys = ['a', 'b', 'c'].map((letter) => letter.repeat(32)) as [string, string, string]

beforeEach(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-saved-'))
  vi.stubEnv('XDG_CACHE_HOME', place)
  notes = []
  store = open()
})

afterEach(async () => {
  vi.unstubAllEnvs()
  await rm(place, { recursive: true })
})

function open(limit = 1 << 30): SavedLabs {
  return new SavedLabs({ limit, note: (line) => notes.push(line) })
}

const labs = (...parts: string[]) => join(place, 'kvitest/labs', ...parts)

/** Saves what stands for a lab: 64 KiB of RAM, a word of state. */
async function save(key: string, contents: string[] = [], by = store): Promise<boolean> {
  return by.save(key, {
    kernel: 'debian:6.12-cloud',
    contents,
    write: async (directory, room) => {
      await room(64 << 10)
      await writeFile(join(directory, 'ram'), Buffer.alloc(64 << 10, 7))
      await writeFile(join(directory, 'state'), 'devices')
      const pages = PageSet.empty(64 << 10)
      pages.add(3)
      return { pages, data: 64 << 10 }
    },
  })
}

test('what was saved is opened, with its pages and what is in it', async () => {
  expect(await save(keys[0], ['blob:1'])).toBe(true)
  const opened = await store.open(keys[0])
  expect(opened?.manifest).toMatchObject({
    kernel: 'debian:6.12-cloud',
    contents: ['blob:1'],
    ram: { size: 65536 },
  })
  expect([2, 3, 4].map((page) => opened?.pages.has(page))).toEqual([false, true, false])
  expect(await opened?.state.readFile('utf8')).toBe('devices')
  await opened?.close()
  expect(notes).toEqual([])
})

test('one that is not there is no word worth', async () => {
  expect(await store.open(keys[0])).toBeUndefined()
  expect(notes).toEqual([])
})

test('a later one takes the place of the earlier', async () => {
  await save(keys[0], ['blob:1'])
  await save(keys[0], ['blob:1', 'blob:2'])
  expect((await store.manifest(keys[0]))?.contents).toEqual(['blob:1', 'blob:2'])
  expect(await readdir(labs())).toEqual([keys[0]])
})

const damages: [string, (directory: string) => Promise<unknown>, RegExp][] = [
  ['ram that is truncated', (at) => truncate(join(at, 'ram'), 4096), /its ram is truncated/],
  ['ram that was changed', (at) => writeFile(join(at, 'ram'), Buffer.alloc(64 << 10)), /its ram was changed/],
  ['state that is truncated', (at) => truncate(join(at, 'state'), 3), /its state is truncated/],
  ['state that was changed', (at) => writeFile(join(at, 'state'), 'DEVICES'), /its state was changed/],
  ['pages that were changed', (at) => writeFile(join(at, 'pages'), 'x'), /its pages were changed/],
  ['a file that is gone', (at) => rm(join(at, 'state')), /a file of it is missing/],
  ['no manifest', (at) => rm(join(at, 'manifest.json')), /a file of it is missing/],
  ['garbage for a manifest', (at) => writeFile(join(at, 'manifest.json'), '\0{['), /its manifest is none/],
  ['a manifest of nothing', (at) => writeFile(join(at, 'manifest.json'), 'null'), /its manifest is none/],
  [
    'a manifest of another version',
    async (at) => {
      const path = join(at, 'manifest.json')
      const manifest = JSON.parse(await readFile(path, 'utf8')) as object
      await writeFile(path, JSON.stringify({ ...manifest, format: 99 }))
    },
    /its manifest is none of this version/,
  ],
]

test.for(damages)('%s: dropped with a note', async ([, damage, reason]) => {
  await save(keys[0])
  // The clock of a file system ticks in milliseconds.
  await utimes(labs(keys[0], 'ram'), 1, 1)
  const path = labs(keys[0], 'manifest.json')
  const manifest = JSON.parse(await readFile(path, 'utf8')) as { ram: { modified: number } }
  manifest.ram.modified = 1000
  await writeFile(path, JSON.stringify(manifest))

  await damage(labs(keys[0]))

  expect(await store.open(keys[0])).toBeUndefined()
  expect(notes).toEqual([expect.stringMatching(reason)])
  expect(notes[0]).toMatch(/^the saved lab of \S+ was dropped: /)
  expect(await readdir(labs())).toEqual([])
})

test('the least recently used make room, and using is opening', async () => {
  await save(keys[0])
  await save(keys[1])
  for (const key of [keys[0], keys[1]]) await utimes(labs(key, 'manifest.json'), 1, 1)
  await (await store.open(keys[0]))?.close()
  const bytes = (await store.list()).reduce((sum, entry) => sum + entry.bytes, 0)

  await save(keys[2], [], open(bytes + (32 << 10)))

  expect((await readdir(labs())).sort()).toEqual([keys[0], keys[2]])
})

test('one that is over the limit alone is not saved, and the others stay', async () => {
  await save(keys[0])
  expect(await save(keys[1], [], open(10_000))).toBe(false)
  expect(notes).toEqual([
    'the lab of debian:6.12-cloud was not saved: save a lab: 65536 bytes, over the limit of 10000 for saved labs; free some space there, or set KVITEST_CACHE_LIMIT',
  ])
  expect(await readdir(labs())).toEqual([keys[0]])
})

test('a disk that is full half-way is a note, and nothing stays behind', async () => {
  await save(keys[0], ['blob:1'])
  const saved = await store.save(keys[0], {
    kernel: 'debian:6.12-cloud',
    contents: [],
    write: async (directory) => {
      await writeFile(join(directory, 'ram'), 'half')
      throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' })
    },
  })
  expect(saved).toBe(false)
  expect(notes).toEqual([
    'the lab of debian:6.12-cloud was not saved: ENOSPC: no space left on device, write',
  ])
  expect(await readdir(labs())).toEqual([keys[0]])
  expect((await store.manifest(keys[0]))?.contents).toEqual(['blob:1'])
})

test('two that save at once leave one that is whole', async () => {
  expect(await Promise.all([save(keys[0], ['blob:1']), save(keys[0], ['blob:2'])])).toEqual([true, true])
  const opened = await store.open(keys[0])
  expect(opened).toBeDefined()
  await opened?.close()
  expect(await readdir(labs())).toEqual([keys[0]])
})

test('what a killed process left of its save is swept', async () => {
  await save(keys[0])
  await writeFile(labs('new-999999999-x'), '')
  await save(keys[0])
  expect(await readdir(labs())).toEqual([keys[0]])
})

test('a saved lab that was replaced meanwhile is not dropped for the faults of its predecessor', async () => {
  await save(keys[0])
  const tried = (await store.manifest(keys[0]))!
  await rm(labs(keys[0]), { recursive: true })
  await save(keys[0])
  const path = labs(keys[0], 'manifest.json')
  const later = JSON.parse(await readFile(path, 'utf8')) as { ram: { modified: number } }
  later.ram.modified += 1
  await writeFile(path, JSON.stringify(later))

  await store.drop(keys[0], 'debian:6.12-cloud', 'it hangs', tried)

  expect(await stat(path)).toBeDefined()
  expect(notes).toEqual([])
})

test('every part changes the key', () => {
  const parts = { image: 'i', kernel: 'k', qemu: 'q', arguments: ['-smp', '1'], cpu: 'c' }
  const others = [
    { ...parts, image: 'x' },
    { ...parts, kernel: 'x' },
    { ...parts, qemu: 'x' },
    { ...parts, arguments: ['-smp', '2'] },
    { ...parts, cpu: 'x' },
  ]
  expect(new Set([parts, { ...parts }, ...others].map(savedLabKey)).size).toBe(6)
})

test('the limit is the variable, else 8 GiB or a tenth of the room', () => {
  vi.stubEnv('KVITEST_CACHE_LIMIT', '')
  expect(cacheLimit(10 * 2 ** 30)).toBe(2 ** 30)
  expect(cacheLimit(2 ** 40)).toBe(8 * 2 ** 30)
  vi.stubEnv('KVITEST_CACHE_LIMIT', '3G')
  expect(cacheLimit(2 ** 40)).toBe(3 * 2 ** 30)
})

interface AskedLab {
  status: { contents: string[]; isTainted: boolean } | undefined
}

const idle = (contents: string[], isTainted = false): AskedLab => ({ status: { contents, isTainted } })

test.for<{ what: string; labs: AskedLab[]; saved: string[] | undefined; chosen: number }>([
  { what: 'none: all are in use or dead', labs: [{ status: undefined }], saved: undefined, chosen: -1 },
  { what: 'the one that holds most', labs: [idle(['a']), idle(['b', 'c'])], saved: ['a'], chosen: 1 },
  { what: 'none: the saved one holds as much', labs: [idle(['a'])], saved: ['a', 'b'], chosen: -1 },
  { what: 'one that holds something new', labs: [idle(['a', 'c'])], saved: ['a', 'b', 'd'], chosen: 0 },
  { what: 'one that is empty, where none is saved', labs: [idle([])], saved: undefined, chosen: 0 },
  { what: 'none whose kernel has complained', labs: [idle(['a', 'b'], true)], saved: undefined, chosen: -1 },
  { what: 'a sound one with less', labs: [idle(['a', 'b'], true), idle(['a'])], saved: undefined, chosen: 1 },
])('the lab to save: $what', ({ labs, saved, chosen }) => {
  expect(labToSave(labs, saved && { contents: saved })).toBe(labs[chosen])
})
