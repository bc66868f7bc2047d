import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { sealCheckpoint, unsealCheckpoint } from './checkpoint-file.ts'
import { decodeSidecar, encodeSidecar, type GuestSidecar } from './sidecar.ts'

const sidecar: GuestSidecar = {
  agent: {
    hello: { kernelRelease: '6.12', warnings: ['w'] },
    partial: new Uint8Array([1, 0, 255]),
    nextId: 7,
    inherited: [3],
  },
  console: 'Linux\n',
  openPorts: ['p'],
  bootTime: 1234.5,
  kernel: { name: 'debian:6.12-cloud', release: '6.12', image: '/vmlinuz', hash: '00' },
  name: 'g',
  cmdline: 'console=ttyS0',
  moment: 'then',
}
const native = Buffer.alloc(3_000_001, 'state of a guest ')
let folder: string
const path = (name: string) => join(folder, name)

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'kvitest-file-'))
  writeFileSync(path('written'), native)
  await sealCheckpoint(path('written'), sidecar, path('saved'))
})

afterEach(() => rmSync(folder, { recursive: true }))

test('what was saved comes back, and the file has its own name only when it is whole', async () => {
  expect(existsSync(path('written'))).toBe(false)
  expect(await unsealCheckpoint(path('saved'), path('native'))).toEqual(sidecar)
  expect(readFileSync(path('native')).equals(native)).toBe(true)
})

test.for([
  [0, 'too short for a checkpoint'],
  [55, 'too short for a checkpoint'],
  [56, 'no checkpoint of kvitest, or its end is missing'],
  [2_999_000, 'no checkpoint of kvitest, or its end is missing'],
  [-1, 'no checkpoint of kvitest, or its end is missing'],
  [-32, 'no checkpoint of kvitest, or its end is missing'],
] as const)('a file cut at %d is refused', async ([at, detail]) => {
  writeFileSync(path('cut'), readFileSync(path('saved')).subarray(0, at))
  await expect(unsealCheckpoint(path('cut'), path('native'))).rejects.toMatchObject({
    code: 'EBADMSG',
    message: `restore a checkpoint: ${path('cut')}: ${detail}; save it again with 'kvitest checkpoint save'`,
  })
  expect(existsSync(path('native'))).toBe(false)
})

test('a file with one bit changed anywhere is refused', async () => {
  const whole = readFileSync(path('saved'))
  // The VMM's part, the sidecar, every field of the trailer, the hash.
  const places = [
    0,
    1_500_000,
    native.length + 5,
    ...[56, 48, 40, 36, 32, 1].map((back) => whole.length - back),
  ]
  for (const at of places) {
    const changed = Buffer.from(whole)
    changed[at]! ^= 0x10
    writeFileSync(path('changed'), changed)
    const refusal = await unsealCheckpoint(path('changed'), path('native')).catch((error) => error)
    expect([at, refusal.code]).toEqual([at, 'EBADMSG'])
    expect(existsSync(path('native'))).toBe(false)
  }
})

test('bytes between the parts, and a file of another version, are refused', async () => {
  const whole = readFileSync(path('saved'))
  writeFileSync(path('longer'), Buffer.concat([Buffer.from('x'), whole]))
  await expect(unsealCheckpoint(path('longer'), path('native'))).rejects.toThrow('its parts do not add up')
  whole.writeUInt32LE(9, whole.length - 36)
  writeFileSync(path('newer'), whole)
  await expect(unsealCheckpoint(path('newer'), path('native'))).rejects.toThrow('format version 9, not 1')
})

test('a file that is not there says so', async () => {
  await expect(unsealCheckpoint(path('none'), path('native'))).rejects.toMatchObject({
    code: 'ENOENT',
    message: `restore a checkpoint: ${path('none')}: no such file`,
  })
})

test('a sidecar of other shape is refused, whatever hash it has', () => {
  const good = JSON.parse(encodeSidecar(sidecar).toString())
  const odd = [
    [],
    { ...good, console: 5 },
    { ...good, openPorts: 'p' },
    { ...good, bootTime: -1 },
    { ...good, agent: { ...good.agent, nextId: 1.5 } },
    { ...good, agent: { ...good.agent, inherited: [2 ** 40] } },
    { ...good, kernel: null },
  ]
  for (const one of odd) {
    expect(() => decodeSidecar(Buffer.from(JSON.stringify(one)))).toThrow('makes no sense')
  }
  expect(() => decodeSidecar(Buffer.from('{'))).toThrow('makes no sense')
})
