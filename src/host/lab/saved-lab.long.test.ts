import { createHash } from 'node:crypto'
import { cp, mkdtemp, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { builtFile } from '../../image/initramfs.ts'
import type { MachineEvent, MachineSpec } from '../../native/contract.ts'
import { type Labs, SavedLabs, startLabs } from '../index.ts'
import { LabHost } from './client.ts'
import { LabConnection } from './connection.ts'
import type { SavedLabManifest } from './saved-lab.ts'

const kernel = 'debian:6.12-cloud'

/** Where the lab that beforeAll saved is; tests work on copies. */
let original: string
let key: string

interface Place {
  directory: string
  notes: string[]
  store: SavedLabs
  start(options?: { labs?: number; memory?: number }): Promise<Labs>
}

async function newPlace(limit?: number): Promise<Place> {
  const directory = await mkdtemp(join(tmpdir(), 'kvitest-saved-labs-'))
  const notes: string[] = []
  const note = (line: string) => void notes.push(line)
  const store = new SavedLabs({ directory, note, ...(limit === undefined ? {} : { limit }) })
  const start = (options = {}) => startLabs({ labs: 1, memory: 2 ** 30, ...options, savedLabs: store })
  return { directory, notes, store, start }
}

/** A place with the saved lab in it, copied with its times. */
async function copy(): Promise<Place> {
  const place = await newPlace()
  onTestFinished(() => rm(place.directory, { recursive: true }))
  await cp(join(original, key), join(place.directory, key), { recursive: true, preserveTimestamps: true })
  const manifest = await editManifest(place, () => {})
  expect(manifest.contents).toHaveLength(1)
  return place
}

/** The manifest says that the files are right as they are now. */
async function editManifest(
  place: Place,
  edit: (manifest: SavedLabManifest) => void,
): Promise<SavedLabManifest> {
  const at = (name: string) => join(place.directory, key, name)
  const manifest = JSON.parse(await readFile(at('manifest.json'), 'utf8')) as SavedLabManifest
  const state = await readFile(at('state'))
  manifest.state = { size: state.length, sha256: createHash('sha256').update(state).digest('hex') }
  manifest.ram.modified = (await stat(at('ram'))).mtimeMs
  edit(manifest)
  await writeFile(at('manifest.json'), JSON.stringify(manifest))
  return manifest
}

/** Runs a bare guest to its end and returns what it printed. */
async function runGuest(labs: Labs, guest = 'hello'): Promise<string> {
  const host = await LabHost.connect(labs.socket, kernel)
  const elf = await builtFile(`guests/${guest}.elf`)
  const spec: MachineSpec = {
    name: guest,
    cpus: 1,
    memory: 4 << 20,
    payload: { kind: 'bare', elf, ring: 0 },
    devices: [],
  }
  let text = ''
  const machine = await host.createMachine(spec, (event: MachineEvent) => {
    if (event.type === 'data') text += Buffer.from(event.data).toString('latin1')
  })
  await machine.start()
  await machine.ended
  await machine.stop()
  await host.close()
  return text
}

beforeAll(async () => {
  const place = await newPlace()
  original = place.directory
  const labs = await place.start()
  expect(await runGuest(labs)).toBe('hello from a bare guest\n')
  await labs.close()
  const entries = await place.store.list()
  expect(entries.map((entry) => entry.kernel)).toEqual([kernel])
  expect(place.notes).toEqual([])
  key = entries[0]!.key
})

afterAll(() => rm(original, { recursive: true, force: true }))

test('a guest runs in a restored lab, which has the files that were sent before', async () => {
  const place = await copy()
  const labs = await place.start()
  onTestFinished(() => labs.close({ save: false }))
  const connection = new LabConnection(labs.socket, () => {})
  await connection.open({ kernel, cpus: 0, memory: 0 })
  const { contents } = (await place.store.manifest(key))!
  const elf = await builtFile('guests/hello.elf')

  const presence = await connection.rpc.ensureBlob(contents[0]!.replace('blob:', ''), (await stat(elf)).size)
  connection.close()

  expect(presence).toBe('present')
  expect(await runGuest(labs)).toBe('hello from a bare guest\n')
  expect(place.notes).toEqual([])
})

test('a run with nothing new leaves the saved lab as it is; one with more saves again', async () => {
  const place = await copy()
  const before = await place.store.manifest(key)

  const first = await place.start()
  await runGuest(first)
  await first.close()
  expect(await place.store.manifest(key)).toEqual(before)

  const second = await place.start()
  await runGuest(second, 'exit_code')
  await second.close()
  const after = await place.store.manifest(key)
  expect(after?.contents).toHaveLength(2)
  expect(after?.contents).toEqual(expect.arrayContaining(before!.contents))

  const third = await place.start()
  expect(await runGuest(third)).toBe('hello from a bare guest\n')
  await third.close({ save: false })
  expect(place.notes).toEqual([])
})

test('two labs of one file share no random numbers, and know the time', async () => {
  const place = await copy()
  const runs = await Promise.all([place.start(), place.start({ labs: 1 })])
  const numbers = await Promise.all(
    runs.map(async (labs) => {
      const connection = new LabConnection(labs.socket, () => {})
      await connection.open({ kernel, cpus: 0, memory: 0 })
      const { random, now } = await connection.rpc.kernelState()
      connection.close()
      return { random: Buffer.from(random).toString('hex'), error: Math.abs(now - Date.now()) }
    }),
  )
  await Promise.all(runs.map((labs) => labs.close({ save: false })))
  expect(numbers[0]!.random).toHaveLength(128)
  expect(numbers[0]!.random).not.toBe(numbers[1]!.random)
  // A restored lab that was not told the time is behind by the time since it was saved.
  const age = Date.now() - Date.parse((await place.store.manifest(key))!.created)
  for (const { error } of numbers) expect(error).toBeLessThan(age)
  expect(place.notes).toEqual([])
})

test('a state that QEMU refuses: dropped with a note, booted, saved anew', async () => {
  const place = await copy()
  await writeFile(join(place.directory, key, 'state'), Buffer.alloc(60_000, 0x5a))
  await editManifest(place, () => {})

  const labs = await place.start()
  expect(await runGuest(labs)).toBe('hello from a bare guest\n')
  expect(place.notes).toEqual([
    expect.stringMatching(/^the saved lab of debian:6\.12-cloud was dropped: use a lab: .*QEMU ended/),
  ])
  await labs.close()
  expect((await place.store.list()).map((entry) => entry.key)).toEqual([key])
})

test('memory of zeros that its manifest calls right: dropped with a note, booted', async () => {
  const place = await copy()
  const file = await open(join(place.directory, key, 'ram'), 'r+')
  await file.truncate(0)
  await file.truncate(2 ** 30)
  await file.close()
  await editManifest(place, () => {})

  const labs = await place.start()
  onTestFinished(() => labs.close({ save: false }))
  expect(await runGuest(labs)).toBe('hello from a bare guest\n')
  expect(place.notes).toEqual([expect.stringMatching(/^the saved lab of debian:6\.12-cloud was dropped: /)])
})

test('another machine is another lab: it boots, and both are there', async () => {
  const place = await copy()
  const labs = await place.start({ memory: 1536 << 20 })
  await runGuest(labs)
  await labs.close()
  expect(await place.store.list()).toHaveLength(2)
  expect(place.notes).toEqual([])
})

test('a lab that does not fit is a note at the end, and nothing is left', async () => {
  const place = await newPlace(1 << 20)
  onTestFinished(() => rm(place.directory, { recursive: true }))
  const labs = await place.start()
  await runGuest(labs)
  await labs.close()
  expect(place.notes).toEqual([
    expect.stringMatching(/^the lab of debian:6\.12-cloud was not saved: .*over the limit of 1048576/),
  ])
  expect(await readdir(place.directory)).toEqual([])
})
