/** virtio-blk from both ends: what the guest says of its disk, and what is on it. */
import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'kvitest/test'
import { afterAll } from 'vitest'

const mebibyte = 1024 * 1024
const sha256 = (data: Uint8Array) => createHash('sha256').update(data).digest('hex')
const shell = (script: string) => ['sh', '-c', script]

// A disk whose requests wait for the host's file: they are served on threads of their own.
const folder = mkdtempSync(join(tmpdir(), 'kvitest-blk-'))
const file = join(folder, 'disk.img')
const content = Buffer.alloc(4 * mebibyte, 'content of a file. ')
writeFileSync(file, content)
afterAll(() => rmSync(folder, { recursive: true }))

test.override('guestOptions', {
  devices: [
    { type: 'virtio-blk', name: 'disk0', backing: { memory: 16 * mebibyte }, serial: 'parent' },
    { type: 'virtio-blk', name: 'over', backing: { overlay: file } },
  ],
})

test('a disk has the same bytes at both ends', async ({ guest }) => {
  const disk = guest.disk('disk0')
  const written = await guest.exec(
    shell(
      'head -c 1000000 /dev/urandom >/noise && dd if=/noise of=/dev/vda bs=64k conv=notrunc,fsync && sha256sum </noise',
    ),
  )
  expect(written).toExitWith(0)
  expect(await disk.sha256(0, 1_000_000)).toBe(written.stdout.split(' ')[0])

  const data = Buffer.alloc(700_000, 'host')
  await disk.write(5 * mebibyte + 3, data)
  const read = await guest.exec(
    shell(
      `dd if=/dev/vda bs=1M skip=5 count=1 iflag=direct | tail -c +4 | head -c ${data.length} | sha256sum`,
    ),
  )
  expect(read.stdout.split(' ')[0]).toBe(sha256(data))
  await expect(disk.read(16 * mebibyte, 1)).rejects.toMatchObject({ code: 'EINVAL' })
})

test('it grows and shrinks under its driver', async ({ guest }) => {
  const disk = guest.disk('disk0')
  const sized = (sectors: number) =>
    guest.exec(shell(`while [ $(cat /sys/block/vda/size) != ${sectors} ]; do sleep 0.05; done`), {
      timeout: 20_000,
    })
  await disk.resize(32 * mebibyte)
  expect(await sized(65536)).toExitWith(0)
  const tail = await guest.exec(shell('echo tail | dd of=/dev/vda bs=512 seek=65535 conv=sync oflag=direct'))
  expect(tail).toExitWith(0)
  expect(Buffer.from(await disk.read(65535 * 512, 5)).toString()).toBe('tail\n')
  await disk.resize(mebibyte)
  expect(await sized(2048)).toExitWith(0)
  expect(await disk.size()).toBe(mebibyte)
})

test('a fork has a disk of its own, with its serial', async ({ guest }) => {
  const put = (text: string) => shell(`echo ${text} | dd of=/dev/vda bs=512 conv=sync oflag=direct`)
  const get = ['dd', 'if=/dev/vda', 'bs=6', 'count=1']
  expect(await guest.exec(put('parent'))).toExitWith(0)
  await using fork = await guest.fork({ devices: { disk0: { serial: 'fork' } } })
  expect((await fork.exec(['cat', '/sys/block/vda/serial'])).stdout).toBe('fork')
  expect(await fork.exec(put('forked'))).toExitWith(0)
  await using grandchild = await fork.fork()
  expect(await grandchild.exec(put('grandc'))).toExitWith(0)
  expect((await guest.exec(get)).stdout).toBe('parent')
  expect((await fork.exec(get)).stdout).toBe('forked')
  const bytes = async (one: typeof guest) => Buffer.from(await one.disk('disk0').read(0, 6)).toString()
  expect(await Promise.all([guest, fork, grandchild].map(bytes))).toEqual(['parent', 'forked', 'grandc'])
  await fork.reset()
  expect(await bytes(fork)).toBe('parent')
  expect((await fork.exec(['cat', '/sys/block/vda/serial'])).stdout).toBe('fork')
})

test('writes under way go on in every fork', async ({ guest }) => {
  const noise = await guest.exec(shell('head -c 4194304 /dev/urandom >/noise && sha256sum </noise'))
  const digest = noise.stdout.split(' ')[0]
  const begun = guest.disk('over')
  // Four at once, each with a MiB.
  const writer = await guest.spawn(
    shell(`for part in 0 1 2 3; do
        dd if=/noise of=/dev/vdb bs=8k count=128 skip=$((part * 128)) seek=$((part * 128)) oflag=direct conv=notrunc &
      done; wait; : >/tmp/written`),
  )
  while ((await begun.sha256(0, 8192)) === sha256(content.subarray(0, 8192)));
  await using fork = await guest.fork()
  await using second = await guest.fork()
  await writer.exited
  for (const one of [guest, fork, second]) {
    const ended = await one.exec(shell('while [ ! -e /tmp/written ]; do sleep 0.05; done'), {
      timeout: 60_000,
    })
    expect(ended).toExitWith(0)
    expect(await one.disk('over').sha256()).toBe(digest)
  }
})

test('a disk over a file has its bytes, keeps what is written, and leaves the file alone', async ({
  guest,
}) => {
  expect((await guest.exec(shell('sha256sum </dev/vdb'))).stdout.split(' ')[0]).toBe(sha256(content))
  const written = await guest.exec(shell('echo mine | dd of=/dev/vdb bs=512 seek=3 conv=sync oflag=direct'))
  expect(written).toExitWith(0)
  expect(Buffer.from(await guest.disk('over').read(3 * 512, 4)).toString()).toBe('mine')
  expect(sha256(await readFile(file))).toBe(sha256(content))
})
