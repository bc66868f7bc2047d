/** virtio-blk from both ends: what the guest says of its disk, and what is on it. */
import { createHash } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'kvitest/test'

const mebibyte = 1024 * 1024
const sha256 = (data: Uint8Array) => createHash('sha256').update(data).digest('hex')

describe('a disk in memory', () => {
  test.override('guestOptions', {
    devices: [{ type: 'virtio-blk', name: 'disk0', backing: { memory: 16 * mebibyte }, serial: 'parent' }],
  })

  test('has the same bytes at both ends', async ({ guest }) => {
    const disk = guest.disk('disk0')
    const written = await guest.exec([
      'sh',
      '-c',
      'head -c 1000000 /dev/urandom >/noise && dd if=/noise of=/dev/vda bs=64k conv=notrunc,fsync && sha256sum </noise',
    ])
    expect(written).toExitWith(0)
    expect(await disk.sha256(0, 1_000_000)).toBe(written.stdout.split(' ')[0])

    const data = Buffer.alloc(700_000, 'host')
    await disk.write(5 * mebibyte + 3, data)
    const read = await guest.exec([
      'sh',
      '-c',
      `dd if=/dev/vda bs=1M skip=5 count=1 iflag=direct | tail -c +4 | head -c ${data.length} | sha256sum`,
    ])
    expect(read.stdout.split(' ')[0]).toBe(sha256(data))
    await expect(disk.read(16 * mebibyte, 1)).rejects.toMatchObject({ code: 'EINVAL' })
  })

  test('grows and shrinks under its driver', async ({ guest }) => {
    const disk = guest.disk('disk0')
    const sized = (sectors: number) =>
      guest.exec(['sh', '-c', `while [ $(cat /sys/block/vda/size) != ${sectors} ]; do sleep 0.05; done`], {
        timeout: 20_000,
      })
    await disk.resize(32 * mebibyte)
    expect(await sized(65536)).toExitWith(0)
    expect(
      await guest.exec(['sh', '-c', 'echo tail | dd of=/dev/vda bs=512 seek=65535 conv=sync oflag=direct']),
    ).toExitWith(0)
    expect(Buffer.from(await disk.read(65535 * 512, 5)).toString()).toBe('tail\n')
    await disk.resize(mebibyte)
    expect(await sized(2048)).toExitWith(0)
    expect(await disk.size()).toBe(mebibyte)
  })

  test("is the fork's own, with its serial", async ({ guest }) => {
    const put = (text: string) => ['sh', '-c', `echo ${text} | dd of=/dev/vda bs=512 conv=sync oflag=direct`]
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

  test('goes on in every fork with the writes that were under way', async ({ guest }) => {
    // Block n of 64 KiB is filled with the digit n mod 10; the loop runs on in each fork.
    const writer = await guest.spawn([
      'sh',
      '-c',
      `n=0; while [ $n -lt 160 ]; do tr '\\0' $((n % 10)) </dev/zero | dd bs=64k count=1 iflag=fullblock 2>/dev/null |
        dd of=/dev/vda bs=64k seek=$n oflag=direct conv=notrunc 2>/dev/null || exit 1; n=$((n + 1)); done; : >/tmp/written`,
    ])
    await using fork = await guest.fork()
    await using second = await guest.fork()
    await writer.exited
    const want = createHash('sha256')
    for (let n = 0; n < 160; n++) want.update(Buffer.alloc(65536, String(n % 10)))
    const digest = want.digest('hex')
    for (const one of [guest, fork, second]) {
      const ended = await one.exec(['sh', '-c', 'while [ ! -e /tmp/written ]; do sleep 0.05; done'], {
        timeout: 60_000,
      })
      expect(ended).toExitWith(0)
      expect(await one.disk('disk0').sha256(0, 160 * 65536)).toBe(digest)
    }
  })
})

test('a disk over a file has its bytes, keeps what is written, and leaves the file alone', async ({
  host,
}) => {
  const folder = await mkdtemp(join(tmpdir(), 'kvitest-blk-'))
  try {
    const path = join(folder, 'disk.img')
    const content = Buffer.alloc(300_000, 'content')
    await writeFile(path, content)
    const devices = [{ type: 'virtio-blk' as const, name: 'disk0', backing: { overlay: path } }]
    await using guest = await host.fork({ devices })
    expect(
      (await guest.exec(['sh', '-c', `head -c ${content.length} /dev/vda | sha256sum`])).stdout,
    ).toContain(sha256(content))
    expect(
      await guest.exec(['sh', '-c', 'echo mine | dd of=/dev/vda bs=512 seek=7 conv=sync oflag=direct']),
    ).toExitWith(0)
    expect(Buffer.from(await guest.disk('disk0').read(7 * 512, 4)).toString()).toBe('mine')
    await using fresh = await host.fork({ devices })
    expect(await fresh.disk('disk0').sha256(0, content.length)).toBe(sha256(content))
  } finally {
    await rm(folder, { recursive: true })
  }
})
