/** Debian's programs in the guest, and what they did as the host sees it. */
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtemp, open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { promisify } from 'node:util'
import type { Guest, GuestDisk } from 'kvitest'
import { expect, test } from 'kvitest/test'
import { onTestFinished } from 'vitest'
import { shell } from './shell.ts'

const run = promisify(execFile)
const mebibyte = 1024 * 1024

// The machine of programs.tap.sh: one boot a kernel.
test.override('guestOptions', {
  cpus: 2,
  packages: ['fio', 'iperf3', 'e2fsprogs', 'rng-tools5', 'socat'],
  devices: [
    { type: 'virtio-blk', name: 'disk0', backing: { memory: 64 * mebibyte }, serial: 'work', queues: 2 },
    { type: 'virtio-rng' },
    { type: 'virtio-net', name: 'net0', backend: { kind: 'peer' } },
    { type: 'virtio-net', name: 'lan', backend: { kind: 'switch', network: 'programs' } },
    { type: 'virtio-vsock', name: 'vsock0' },
  ],
})

/** A file of this machine with a disk's bytes. */
async function copyOf(disk: GuestDisk): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'kvitest-programs-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  const path = join(folder, 'disk')
  await using file = await open(path, 'w')
  const size = await disk.size()
  for (let at = 0; at < size; at += 8 * mebibyte) {
    await file.write(await disk.read(at, Math.min(8 * mebibyte, size - at)), 0, null, at)
  }
  return path
}

test('what fio wrote is on the disk, block by block, and what the host spoils fio finds', async ({
  guest,
}) => {
  // Every eight bytes of a block are the block's offset.
  const job = (more: string) =>
    `fio --name=host --filename=/dev/vda --direct=1 --rw=randwrite --bs=4k --offset=16m --size=1m --ioengine=libaio \
      --iodepth=16 --verify=pattern --verify_pattern=%o --verify_fatal=1 ${more} 2>&1`
  await shell(guest, job('--do_verify=0'))
  const disk = guest.disk('disk0')
  const start = 16 * mebibyte
  const written = Buffer.from(await disk.read(start, mebibyte))
  const expected = Buffer.alloc(mebibyte)
  for (let at = 0; at < expected.length; at += 8) {
    expected.writeBigUInt64LE(BigInt(start + at - (at % 4096)), at)
  }
  expect(written.equals(expected)).toBe(true)
  expect((await disk.read(start - 4096, 4096)).every((byte) => byte === 0)).toBe(true)
  expect((await disk.read(start + mebibyte, 4096)).every((byte) => byte === 0)).toBe(true)

  await shell(guest, job('--verify_only'))
  await disk.write(start + 77 * 4096 + 123, Buffer.from([0xff]))
  const spoilt = await guest.exec(['sh', '-c', job('--verify_only')], { timeout: 60_000 })
  expect(spoilt.status).not.toBe(0)
  expect(spoilt.stdout).toContain('bad pattern block offset 123')
})

test("a file system of the guest's is sound for the host's fsck, with every file's checksum", async ({
  guest,
}) => {
  const sums = await shell(
    guest,
    `mkfs.ext4 -q -b 1024 /dev/vda && mkdir /mnt && mount -t ext4 /dev/vda /mnt && cd /mnt
    for n in 1 2 3 4 5 6; do head -c $((n * n * 40001)) /dev/urandom >file$n; done
    rm file3 && ln file4 linked && sha256sum file* && cd / && umount /mnt`,
  )
  const copy = await copyOf(guest.disk('disk0'))
  // Rejects when fsck finds something.
  await run('e2fsck', ['-fn', copy])
  const lines = sums.split('\n').map((line) => line.split(/ +/))
  expect(lines.map(([, name]) => name)).toEqual(['file1', 'file2', 'file4', 'file5', 'file6'])
  for (const [sum, name] of lines) {
    const options = { encoding: 'buffer', maxBuffer: 16 * mebibyte } as const
    const { stdout } = await run('debugfs', ['-R', `cat /${name}`, copy], options)
    expect(createHash('sha256').update(stdout).digest('hex'), name).toBe(sum)
  }
})

test('iperf3 from guest to guest: TCP both ways, and what one sent the other had', async ({ guest }) => {
  await using checkpoint = await guest.checkpoint()
  const fork = (mac: string) => checkpoint.fork({ devices: { lan: { mac, network: 'iperf' } } })
  await using server = await fork('02:00:00:00:00:51')
  await using client = await fork('02:00:00:00:00:52')
  for (const [each, address] of [
    [server, '198.51.100.1'],
    [client, '198.51.100.2'],
  ] as const) {
    await shell(each, `ip addr add ${address}/24 dev eth1 && ip link set eth1 up`)
  }
  await shell(server, 'iperf3 -s -D --pidfile /run/iperf')
  const received = async (one: Guest) =>
    Number(await shell(one, 'cat /sys/class/net/eth1/statistics/rx_bytes'))
  for (const [flags, taker] of [
    ['', server],
    ['-R', client],
  ] as const) {
    const before = await received(taker)
    const said = await shell(
      client,
      `for i in $(seq 50); do iperf3 -c 198.51.100.1 -n 1M ${flags} -J >/tmp/out && break; sleep 0.1; done; cat /tmp/out`,
    )
    const { end } = JSON.parse(said) as {
      end: { sum_sent: { bytes: number }; sum_received: { bytes: number } }
    }
    expect(end.sum_sent.bytes).toBeGreaterThanOrEqual(mebibyte)
    // What the other side had read when the sender said that it was done: the rest was on its way.
    expect(end.sum_received.bytes).toBeGreaterThanOrEqual(mebibyte / 2)
    expect((await received(taker)) - before).toBeGreaterThanOrEqual(end.sum_received.bytes)
  }
})

test('socat over vsock: what the guest sends the host has, and the other way round', async ({ guest }) => {
  const heard = Promise.withResolvers<Buffer>()
  await using _listener = await guest.vsock().listen(5000, (socket: Duplex) => {
    heard.resolve(buffer(socket))
    socket.end()
  })
  const sum = await shell(
    guest,
    `head -c 500000 /dev/urandom >/noise && socat -u OPEN:/noise VSOCK-CONNECT:2:5000 && sha256sum </noise`,
  )
  expect(
    createHash('sha256')
      .update(await heard.promise)
      .digest('hex'),
  ).toBe(sum.split(' ')[0])

  await shell(guest, '(socat -u VSOCK-LISTEN:6000 CREATE:/got >/dev/null 2>&1; : >/done) &')
  const data = Buffer.alloc(300_001, 'from the host ')
  await expect
    .poll(
      async () => {
        const socket = await guest
          .vsock()
          .connect(6000)
          .catch(() => undefined)
        socket?.end(data)
        return socket !== undefined
      },
      { timeout: 20_000 },
    )
    .toBe(true)
  const got = await shell(guest, 'while [ ! -e /done ]; do sleep 0.05; done; sha256sum </got')
  expect(got.split(' ')[0]).toBe(createHash('sha256').update(data).digest('hex'))
})
