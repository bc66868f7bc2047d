/** Disks through the addon, with bare guests on a real /dev/kvm. */
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { loadAddon } from './addon.ts'
import type { BlkDevice, DiskBacking, MachineSpec } from './contract.ts'
import { bareSpec, createBare, startFork, whyNoKvm } from './testing/bare-guest.ts'

const directory = mkdtempSync(join(tmpdir(), 'kvitest-disk-'))
afterAll(() => rmSync(directory, { recursive: true }))

function fileOf(name: string, content: string): string {
  const path = join(directory, name)
  writeFileSync(path, content)
  return path
}

function withDisk(backing: DiskBacking, more: Partial<BlkDevice> = {}): MachineSpec {
  return { ...bareSpec('steps'), devices: [{ type: 'virtio-blk', name: 'disk0', backing, ...more }] }
}

const bytes = (text: string) => new TextEncoder().encode(text)
const text = (data: Uint8Array) => Buffer.from(data).toString()
const reason = whyNoKvm()

describe.skipIf(reason)(`disks${reason ? ` (skipped: ${reason})` : ''}`, () => {
  test('are read, written and resized from the host', async () => {
    const { machine } = await createBare(withDisk({ memory: 1 << 20 }))
    await machine.writeDisk('disk0', 4090, bytes('over a cluster'))
    expect(text(await machine.readDisk('disk0', 4089, 16))).toBe('\0over a cluster\0')
    await machine.resizeDisk('disk0', 4096)
    expect(await machine.diskReport('disk0')).toEqual({
      bytes: 4096,
      engine: 'vcpu',
      served: { vcpu: 0, threads: 0, io_uring: 0 },
    })
    await expect(machine.readDisk('disk0', 4096, 1)).rejects.toMatchObject({
      code: 'EINVAL',
      message: 'read disk: 1 bytes at 4096 of a disk of 4096 (Invalid argument)',
    })
    await expect(machine.readDisk('disk0', -1, 1)).rejects.toMatchObject({ code: 'EINVAL' })
    await expect(machine.resizeDisk('disk0', 100)).rejects.toMatchObject({ code: 'EINVAL' })
    await expect(machine.writeDisk('other', 0, bytes('x'))).rejects.toMatchObject({
      code: 'ENOENT',
      hint: 'its disks: disk0',
    })
    await machine.stop()
    await expect(machine.diskReport('disk0')).rejects.toMatchObject({ code: 'EPIPE' })
  })

  test('a file is written to by its machine alone, an overlay leaves it as it is', async () => {
    const path = fileOf('file', '.'.repeat(1024))
    const { machine } = await createBare(withDisk({ file: path }))
    await machine.writeDisk('disk0', 1, bytes('written'))
    await expect(createBare(withDisk({ overlay: path }))).rejects.toMatchObject({ code: 'EBUSY' })
    await machine.stop()
    const over = await createBare(withDisk({ overlay: path }))
    await over.machine.writeDisk('disk0', 0, bytes('over'))
    expect(text(await over.machine.readDisk('disk0', 0, 10))).toBe('overtten..')
    await over.machine.stop()
    expect(readFileSync(path, 'utf8').slice(0, 10)).toBe('.written..')
  })

  test('say who does their requests', async () => {
    const path = fileOf('engines', '.'.repeat(4096))
    const engineOf = async (backing: DiskBacking) => {
      const { machine } = await createBare(withDisk(backing))
      const { engine, bytes } = await machine.diskReport('disk0')
      await machine.stop()
      expect(bytes).toBe(4096)
      return engine
    }
    expect(await engineOf({ memory: 4096 })).toBe('vcpu')
    expect(await engineOf({ overlay: path })).toBe('threads')
    expect(await engineOf({ file: path, engine: 'threads' })).toBe('threads')
    // Where the kernel allows no io_uring, asking for one says so, and leaving it out gives threads.
    const asked = await engineOf({ file: path, engine: 'io_uring' }).catch((error: Error) => error.message)
    expect(asked).toMatch(/^io_uring$|io_uring/)
    expect(await engineOf({ file: path })).toBe(asked === 'io_uring' ? 'io_uring' : 'threads')
  })

  test('a checkpoint says which disks it has, and its forks have the content with serials of their own', async () => {
    const device = {
      type: 'virtio-blk',
      name: 'disk0',
      backing: { memory: 1 << 20 },
      readOnly: false,
      serial: 'parent',
      queues: 2,
      queueSize: 64,
      blockSize: 4096,
      withoutFeatures: ['discard', 'event_idx'],
    } as const
    const spec = {
      ...bareSpec('steps'),
      devices: [{ ...device, withoutFeatures: [...device.withoutFeatures] }],
    }
    const { machine } = await createBare(spec)
    await machine.start()
    await machine.writeDisk('disk0', 0, bytes('parent'))
    const checkpoint = await machine.checkpoint()
    await machine.stop()
    expect(checkpoint.info.spec.devices).toEqual([device])

    const path = join(directory, 'checkpoint')
    await checkpoint.save(path)
    const loaded = await loadAddon().loadCheckpoint(path)
    expect(loaded.info.spec).toEqual(checkpoint.info.spec)
    for (const one of [checkpoint, loaded]) {
      const fork = await startFork(one, { devices: { disk0: { serial: 'fork' } } })
      expect(text(await fork.machine.readDisk('disk0', 0, 6))).toBe('parent')
      await fork.machine.writeDisk('disk0', 0, bytes('forked'))
      const again = await fork.machine.checkpoint()
      expect(again.info.spec.devices).toEqual([{ ...device, serial: 'fork' }])
      await fork.machine.stop()
    }
    await expect(startFork(checkpoint, { devices: { net0: { serial: 'x' } } })).rejects.toMatchObject({
      code: 'EINVAL',
      message: expect.stringContaining('no device named net0'),
    })
    await expect(startFork(checkpoint, { expected: { devices: [] } })).rejects.toMatchObject({
      message: expect.stringContaining(
        'virtio-blk(disk0: 1048576 bytes of memory, 2 queues, without discard',
      ),
    })
    expect(loadAddon().counts().machines).toBe(0)
  })

  test('a checkpoint whose file below was changed is refused', async () => {
    const base = fileOf('base', 'b'.repeat(4096))
    const { machine } = await createBare(withDisk({ overlay: base }))
    await machine.start()
    const checkpoint = await machine.checkpoint()
    await machine.stop()
    const path = join(directory, 'over-base')
    await checkpoint.save(path)
    truncateSync(base, 512)
    const stale = { code: 'ESTALE', message: expect.stringContaining('the file was changed since') }
    await expect(startFork(checkpoint)).rejects.toMatchObject(stale)
    await expect(loadAddon().loadCheckpoint(path)).rejects.toMatchObject(stale)
  })

  test.for<[string, unknown, string]>([
    ['no backing', { backing: undefined }, 'the backing of a virtio-blk is not an object'],
    ['an empty backing', { backing: {} }, 'none of memory, file, overlay'],
    ['a size that is no size', { backing: { memory: 'lots' } }, 'backing.memory is not a number'],
    ['no name', { name: undefined }, 'the name of a virtio-blk is not a string'],
    ['nine queues', { queues: 9 }, 'disk disk0: 9 queues'],
    ['a feature there is not', { withoutFeatures: ['wings'] }, 'no feature "wings"'],
    ['features that are no list', { withoutFeatures: 'mq' }, 'withoutFeatures is not an array'],
  ])('a spec with %s is refused by name', async ([, change, detail]) => {
    const spec = withDisk({ memory: 4096 }, change as Partial<BlkDevice>)
    await expect(createBare(spec)).rejects.toMatchObject({
      code: 'EINVAL',
      message: expect.stringContaining(detail),
    })
  })
})
