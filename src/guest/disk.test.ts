import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import type { LabRpc } from '../host/lab/connection.ts'
import { sendFiles } from '../host/lab/transfer.ts'
import { LocalHost } from '../host/local.ts'
import type { BlkDevice, DiskBacking } from '../native/contract.ts'
import { bareSpec, whyNoKvm } from '../native/testing/bare-guest.ts'
import { checkOptions } from './boot-options.ts'
import { hashDisks, MachineDisk, placeDisks } from './disk.ts'

const directory = mkdtempSync(join(tmpdir(), 'kvitest-disk-'))
afterAll(() => rmSync(directory, { recursive: true }))

const disk = (backing: DiskBacking): BlkDevice => ({ type: 'virtio-blk', name: 'disk0', backing })

const reason = whyNoKvm()
describe.skipIf(reason)(`the host's side${reason ? ` (skipped: ${reason})` : ''}`, () => {
  test('reads and writes more than one call takes, to the byte', async () => {
    await using host = await LocalHost.open()
    const spec = { ...bareSpec('steps'), devices: [disk({ memory: 4 << 20 })] }
    const machine = await host.createMachine(spec, () => {})
    const side = new MachineDisk('disk0', () => machine)
    const data = new Uint8Array(1_500_001).map((_, at) => (at * 7919) >> 5)

    await side.write(12_345, data)

    expect(Buffer.from(await side.read(12_345, data.length)).equals(data)).toBe(true)
    expect((await side.read(12_340, 6)).slice(0, 5)).toEqual(new Uint8Array(5))
    expect(await side.read(0, 0)).toEqual(new Uint8Array())
    // sha256 of 4 MiB of zeros and of none, by sha256sum(1).
    await side.write(12_345, new Uint8Array(data.length))
    expect(await side.sha256()).toBe('bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8')
    expect(await side.sha256(7, 0)).toBe('e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855')
    await expect(side.read(4 << 20, 1)).rejects.toMatchObject({ code: 'EINVAL' })
    await side.resize(8 << 20)
    expect(await side.report()).toMatchObject({ bytes: 8 << 20, engine: 'vcpu' })
    expect(await side.size()).toBe(8 << 20)
  })
})

test('paths are seen from a folder', () => {
  const devices = [
    disk({ overlay: 'a.img' }),
    disk({ file: '/b.img' }),
    disk({ file: 'c.img', engine: 'threads' }),
    disk({ memory: 512 }),
  ]
  expect(placeDisks(devices, '/suite').map((device) => (device as BlkDevice).backing)).toEqual([
    { overlay: '/suite/a.img' },
    { file: '/b.img' },
    { file: '/suite/c.img', engine: 'threads' },
    { memory: 512 },
  ])
})

test('a checkpoint is known by the content of its files, not by their paths', async () => {
  const [first, second, other] = ['first', 'second', 'other'].map((name) => join(directory, name))
  for (const path of [first!, second!]) writeFileSync(path, 'same')
  writeFileSync(other!, 'different')
  const hashed = async (path: string) => JSON.stringify(await hashDisks([disk({ overlay: path })]))
  expect(await hashed(second!)).toBe(await hashed(first!))
  expect(await hashed(other!)).not.toBe(await hashed(first!))
  await expect(hashed('/nonexistent')).rejects.toMatchObject({ code: 'ENOENT' })
})

test('two disks of one name are refused before anything boots', () => {
  const devices = [disk({ memory: 512 }), disk({ memory: 1024 })]
  expect(() => checkOptions({ devices }, 'native')).toThrow('give every virtio-blk device a name of its own')
})

test('a lab refuses to write to a file of this machine', async () => {
  const spec = { ...bareSpec('steps'), devices: [disk({ file: '/disk.img' })] }
  // Refused before the lab is asked for anything.
  await expect(sendFiles({} as LabRpc, spec)).rejects.toMatchObject({
    code: 'ENOTSUP',
    message: expect.stringContaining('a lab does not write to files of this machine (/disk.img)'),
  })
})
