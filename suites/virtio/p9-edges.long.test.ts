/** virtio-9p at its limits through Linux's client, on both transports and both kinds of ring; as p9.long.test.ts not part of npm test. */
import { describe, expect, test } from 'kvitest/test'
import { makeShare, mount, pattern, sha256 } from './p9.ts'
import { shell } from './shell.ts'

// Names from 1 to 255 bytes, which is the longest: a listing takes many messages of any size.
const names = new Set(Array.from({ length: 1500 }, (_, n) => String(n).padStart(1 + ((n * 7) % 255), 'n')))
const listing = sha256(
  [...names]
    .sort()
    .map((name) => `${name}\n`)
    .join(''),
)
const content = pattern(2_000_003)
const shared = makeShare({
  content,
  empty: '',
  ...Object.fromEntries([...names].map((name) => [`many/${name}`, ''])),
})

/** What a message of `msize` has beside the data, for Linux. */
const header = 24
const around = (size: number) => [size - 1, size, size + 1]

describe.for([
  { kernel: 'debian:6.12-generic', transport: 'pci', ring: 'split' },
  { kernel: 'debian:6.12-generic', transport: 'mmio', ring: 'packed' },
  { kernel: 'debian:6.1-generic', transport: 'mmio', ring: 'split' },
  { kernel: 'debian:6.1-generic', transport: 'pci', ring: 'packed' },
] as const)('$kernel transport=$transport ring=$ring', ({ kernel, transport, ring }) => {
  test.override('guestOptions', {
    kernel,
    fork: 'none',
    devices: [
      {
        type: 'virtio-9p',
        tag: 'share',
        path: shared,
        transport,
        ...(ring === 'packed' ? { withFeatures: ['ring_packed'] } : {}),
      },
    ],
  })

  test('files and directories at every limit', async ({ guest }) => {
    for (const msize of [4096, 4097, 8192, 65_536, 262_144, 524_288]) {
      const data = msize - header
      const sizes = [0, 1, ...around(data), ...around(2 * data)]
      await shell(
        guest,
        `${mount(`,msize=${msize}`)} && sha256sum content | grep -q ${sha256(content)} && [ $(wc -c <empty) = 0 ] &&
        head -c ${2 * data + 1} content >/whole
        for size in ${sizes.join(' ')}; do
          head -c $size /whole >/part && dd if=/part of=new bs=1M 2>/dev/null && [ $(stat -c %s new) = $size ] &&
          dd if=new bs=1M 2>/dev/null | cmp - /part && rm new || { echo $size bytes; exit 1; }
        done`,
      )
      expect(await shell(guest, 'cd /mnt/many && ls -1 | LC_ALL=C sort | sha256sum'), `msize ${msize}`).toBe(
        `${listing}  -`,
      )
      await shell(guest, 'cd / && umount /mnt')
    }

    await shell(guest, mount())
    // Behind the end, a hole, and at odd offsets.
    expect(await shell(guest, 'dd if=/mnt/content bs=1 skip=2000003 count=10 2>/dev/null | wc -c')).toBe('0')
    await shell(
      guest,
      `cd /mnt && printf end | dd of=hole bs=1 seek=1000001 2>/dev/null && [ $(stat -c %s hole) = 1000004 ] &&
      head -c 1000001 hole | cmp -n 1000001 - /dev/zero && [ "$(tail -c 3 hole)" = end ] && rm hole
      for at in 1 511 4095 4097 1999999; do
        dd if=content bs=1 skip=$at count=4 2>/dev/null >/part && dd if=content of=copy bs=$at count=1 2>/dev/null &&
        [ $(stat -c %s copy) = $at ] && cmp -n $at copy content || exit 1
      done; rm copy`,
    )
    // Names: the longest is there, a longer one is refused.
    const long = 'x'.repeat(255)
    await shell(
      guest,
      `cd /mnt && : >${long} && [ -e ${long} ] && rm ${long} && ! touch ${long}x 2>/dev/null`,
    )

    // Eight writers at once, on a ring of 128.
    await shell(
      guest,
      `cd /mnt && for n in 1 2 3 4 5 6 7 8; do (head -c $((n * 100001)) content >w$n && head -c $((n * 100001)) content | cmp - w$n) & pids="$pids $!"; done
      for pid in $pids; do wait $pid || exit 1; done; rm w?`,
    )
    await shell(guest, 'cd / && umount /mnt')

    // The driver leaves and returns a hundred times.
    await shell(
      guest,
      `cd /sys/bus/virtio/drivers/9pnet_virtio && d=$(basename $(readlink -f virtio*)) &&
      for n in $(seq 100); do echo $d >unbind && echo $d >bind || exit 1; done`,
    )
    expect(await shell(guest, `${mount()} && sha256sum <content`)).toContain(sha256(content))
  })
})

describe('without mount_tag', () => {
  test.override('guestOptions', {
    kernel: 'debian:6.12-generic',
    fork: 'none',
    devices: [{ type: 'virtio-9p', tag: 'share', path: shared, withoutFeatures: ['mount_tag'] }],
  })
  test('Linux leaves the device alone', async ({ guest }) => {
    const driver =
      'for d in /sys/bus/virtio/devices/*; do [ $(($(cat $d/device))) != 9 ] || ls $d | grep -c driver; done; true'
    expect(await shell(guest, driver)).toBe('0')
    const result = await guest.exec(['sh', '-c', mount()])
    expect(result.status).not.toBe(0)
  })
})

describe.for(['indirect_desc', 'event_idx'])('without %s', (feature) => {
  test.override('guestOptions', {
    kernel: 'debian:6.12-generic',
    devices: [{ type: 'virtio-9p', tag: 'share', path: shared, readOnly: true, withoutFeatures: [feature] }],
  })
  test('the guest has the bytes of the host', async ({ guest }) => {
    expect(await shell(guest, `${mount(',msize=262144')} && sha256sum <content`)).toContain(sha256(content))
    expect(await shell(guest, 'ls -1 /mnt/many | LC_ALL=C sort | sha256sum')).toBe(`${listing}  -`)
  })
})
