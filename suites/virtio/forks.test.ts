/** Forks that are made while requests are in flight: what was under way happens once in each, or is said to have failed. */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import type { Duplex } from 'node:stream'
import type { DeviceSpec, Guest } from 'kvitest'
import { describe, expect, test } from 'kvitest/test'
import { shell } from './shell.ts'

const mebibyte = 1024 * 1024

const background = (command: string, name: string) =>
  `(${command}; echo $? >/tmp/${name}.status) >/dev/null 2>/tmp/${name}.error &`
const statusOf = (guest: Guest, name: string) =>
  shell(guest, `while [ ! -s /tmp/${name}.status ]; do sleep 0.05; done; cat /tmp/${name}.status`)

/** The bytes and the digest of a stream to its end. */
async function digestOf(socket: Duplex): Promise<{ bytes: number; digest: string }> {
  const hash = createHash('sha256')
  let bytes = 0
  for await (const data of socket) {
    hash.update(data as Buffer)
    bytes += (data as Buffer).length
  }
  socket.end()
  return { bytes, digest: hash.digest('hex') }
}

describe.for([
  { transport: 'pci', ring: 'split' },
  { transport: 'mmio', ring: 'packed' },
] as const)('transport=$transport ring=$ring', { timeout: 300_000 }, ({ transport, ring }) => {
  const shared = { transport, ...(ring === 'packed' ? { withFeatures: ['ring_packed'] } : {}) }
  // With page reporting a power-off may be a WARNING of 6.12 (docs/findings.md).
  const devices: DeviceSpec[] = [
    {
      type: 'virtio-scsi',
      name: 'scsi0',
      luns: [{ name: 'unit', memory: 8 * mebibyte }],
      queueSize: 16,
      ...shared,
    },
    { type: 'virtio-net', name: 'net0', backend: { kind: 'peer' }, ...shared },
    { type: 'virtio-vsock', name: 'vsock0', cid: 60, ...shared },
    { type: 'virtio-balloon', name: 'balloon0', ...shared, withoutFeatures: ['page_reporting'] },
    { type: 'virtio-rng', ...shared },
  ]
  test.override('guestOptions', {
    devices,
    files: { '/bin/talk': 'build/Release/programs/talk' },
  })

  test('virtio-scsi: writes under way go on in every fork', async ({ guest }) => {
    const noise = await shell(
      guest,
      'while [ ! -b /dev/sda ]; do sleep 0.05; done; head -c 8388608 /dev/urandom >/noise && sha256sum </noise',
    )
    // Four at once, each with a quarter.
    await shell(
      guest,
      background(
        `for part in 0 1 2 3; do
          dd if=/noise of=/dev/sda bs=8k count=256 skip=$((part * 256)) seek=$((part * 256)) oflag=direct conv=notrunc & pids="$pids $!"
        done; for pid in $pids; do wait $pid || exit 1; done`,
        'scsi',
      ),
    )
    const disk = guest.scsi().disk('unit')
    while ((await disk.read(0, 4096)).every((byte) => byte === 0));
    await using fork = await guest.fork()
    await using second = await guest.fork()
    for (const one of [guest, fork, second]) {
      expect(await statusOf(one, 'scsi')).toBe('0')
      expect(await one.scsi().disk('unit').sha256()).toBe(noise.split(' ')[0])
    }
  })

  test('virtio-vsock: a stream arrives once with its parent, and ends in the fork, which sends it anew', async ({
    guest,
  }) => {
    const sum = (await shell(guest, 'head -c 3000000 /dev/urandom >/noise && sha256sum </noise')).split(
      ' ',
    )[0]
    const connected = Promise.withResolvers<Duplex>()
    await using _listener = await guest.vsock().listen(1000, connected.resolve)
    await shell(guest, background('talk vsock 2 1000 </noise', 'vsock'))
    const socket = await connected.promise
    await once(socket, 'readable')
    await using fork = await guest.fork({ devices: { vsock0: { cid: 61 } } })
    expect(await digestOf(socket)).toEqual({ bytes: 3_000_000, digest: sum })
    expect(await statusOf(guest, 'vsock')).toBe('0')

    expect(await statusOf(fork, 'vsock')).not.toBe('0')
    const again = Promise.withResolvers<Duplex>()
    await using _again = await fork.vsock().listen(1000, again.resolve)
    const [{ digest }] = await Promise.all([
      again.promise.then(digestOf),
      shell(fork, 'talk vsock 2 1000 </noise'),
    ])
    expect(digest).toBe(sum)
  })

  test('virtio-net: a connection goes on with its parent, and the fork makes a new one', async ({
    guest,
  }) => {
    await shell(
      guest,
      `ip link set eth0 up && ip addr add 192.0.2.2/24 dev eth0 && talk udp 192.0.2.1 7 100 1
      head -c 4000000 /dev/urandom >/noise`,
    )
    // It does not end before the fork is there, however fast the host is.
    const goes = '(cat /noise; while [ ! -e /tmp/go ]; do sleep 0.05; done; cat /noise)'
    const echoes = (name: string) =>
      `${goes} | talk tcp 192.0.2.1 7 >/tmp/${name} && cat /noise /noise | cmp - /tmp/${name}`
    await shell(guest, background(echoes('echoed'), 'net'))
    await shell(guest, 'while [ ! -s /tmp/echoed ]; do sleep 0.01; done')
    await using fork = await guest.fork()
    for (const one of [guest, fork]) await shell(one, ': >/tmp/go')
    expect(await statusOf(guest, 'net')).toBe('0')
    // Its peer knows of no connection.
    expect(await statusOf(fork, 'net')).not.toBe('0')
    await shell(fork, echoes('again'))
  })

  test('virtio-balloon: a balloon that fills goes on in every fork', async ({ guest }) => {
    await guest.balloon().setTarget(64 * mebibyte)
    await expect.poll(async () => (await guest.balloon().report()).inflated).toBeGreaterThan(0)
    await using fork = await guest.fork()
    for (const one of [guest, fork]) {
      const { actual, ignored } = await one.balloon().inflate(64 * mebibyte)
      expect({ actual, ignored }).toEqual({ actual: 64 * mebibyte, ignored: 0 })
      expect((await one.balloon().inflate(0)).actual).toBe(0)
    }
  })
})
