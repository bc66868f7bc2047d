/** virtio-9p at work beside every other device, through a freeze and while it is unplugged; not part of npm test, as p9.long.test.ts. */
import { describe, expect, test } from 'kvitest/test'
import { makeShare, mount, pattern, sha256 } from './p9.ts'
import { shell } from './shell.ts'

const mebibyte = 1024 * 1024
const content = pattern(700_001)
const shared = makeShare({ content })

/** Reads the content and writes it anew, both checked, until /tmp/stop is there; then says how often, in /tmp/rounds. */
const work = `(cd /mnt; n=0
  while [ ! -e /tmp/stop ]; do
    cp content copy-$n && cmp copy-$n content && rm copy-$n || exit 1
    n=$((n + 1)); echo $n >/tmp/round
  done; mv /tmp/round /tmp/rounds) >/dev/null 2>&1 &`
const atWork = 'until [ -s /tmp/round ]; do sleep 0.1; done'
const stop = ': >/tmp/stop; until [ -s /tmp/rounds ]; do sleep 0.1; done; cat /tmp/rounds'

describe.for([
  { kernel: 'debian:6.12-generic', transport: 'pci', ring: 'split' },
  { kernel: 'debian:6.12-generic', transport: 'mmio', ring: 'packed' },
  { kernel: 'debian:6.1-generic', transport: 'pci', ring: 'packed' },
  { kernel: 'debian:6.1-generic', transport: 'mmio', ring: 'split' },
] as const)('$kernel transport=$transport ring=$ring', ({ kernel, transport, ring }) => {
  const on = { transport, ...(ring === 'packed' ? { withFeatures: ['ring_packed'] } : {}) }
  test.override('guestOptions', {
    kernel,
    fork: 'none',
    files: { '/bin/talk': 'build/Release/programs/talk' },
    devices: [
      { type: 'virtio-9p', tag: 'share', path: shared, ...on },
      { type: 'virtio-blk', name: 'disk0', backing: { memory: 8 * mebibyte }, ...on },
      { type: 'virtio-scsi', name: 'scsi0', luns: [{ name: 'unit', memory: 8 * mebibyte }], ...on },
      { type: 'virtio-net', name: 'net0', backend: { kind: 'peer' }, ...on },
      { type: 'virtio-rng', ...on },
      { type: 'virtio-console', ports: [{ name: 'test.port' }], ...on },
    ],
  })

  test('files are copied while every other device works', async ({ guest }) => {
    await shell(
      guest,
      `${mount(',msize=262144')}; ip link set eth0 up; ip addr add 192.0.2.2/24 dev eth0
      until [ -b /dev/sda ] && [ -e /dev/virtio-ports/test.port ]; do sleep 0.05; done`,
    )
    let heard = 0
    void (async () => {
      for await (const data of guest.port('test.port')) heard += data.length
    })().catch(() => {}) // It ends with its guest.
    // What each does is checked, and it counts its rounds as the files' worker does.
    const others = {
      vda: 'dd if=/mnt/content of=/dev/vda bs=4096 oflag=direct conv=sync 2>/dev/null && head -c 700001 /dev/vda | cmp - /mnt/content',
      sda: 'dd if=/mnt/content of=/dev/sda bs=4096 oflag=direct conv=sync 2>/dev/null && head -c 700001 /dev/sda | cmp - /mnt/content',
      net: 'talk udp 192.0.2.1 7 1400 20',
      rng: '[ $(head -c 4096 /dev/hwrng | wc -c) = 4096 ]',
      port: 'head -c 50000 /dev/zero >/dev/virtio-ports/test.port',
    }
    for (const [name, command] of Object.entries(others)) {
      const loop = `(n=0; while [ ! -e /tmp/stop ]; do ${command} || { echo failed in round $n >/tmp/done-${name}; exit 1; }; n=$((n + 1)); done; echo $n >/tmp/done-${name}) >/dev/null 2>&1 &`
      await shell(guest, loop)
    }
    await shell(guest, work)
    await shell(guest, 'until [ "$(cat /tmp/round 2>/dev/null || echo 0)" -ge 5 ]; do sleep 0.1; done')
    expect(Number(await shell(guest, stop))).toBeGreaterThanOrEqual(5)
    for (const name of Object.keys(others)) {
      const rounds = await shell(
        guest,
        `until [ -s /tmp/done-${name} ]; do sleep 0.1; done; cat /tmp/done-${name}`,
      )
      expect(Number(rounds), `${name}: ${rounds}`).toBeGreaterThan(0)
      if (name === 'port') await expect.poll(() => heard).toBe(Number(rounds) * 50_000)
    }
  })

  // Linux's 9pnet_virtio has no callbacks for it: it does not set its ring up again, so whoever has it mounted waits for ever.
  test('a freeze leaves the device to the next driver', async ({ guest }) => {
    expect(await shell(guest, `${mount()} && sha256sum <content`)).toContain(sha256(content))
    await shell(guest, 'cd / && umount /mnt')
    // As in lifecycle.tap.sh: every driver is frozen and restored, for the image has nowhere to go.
    await shell(
      guest,
      `dmesg -c >/dev/null; echo shutdown >/sys/power/disk; echo 1000000000 >/sys/power/image_size
      echo disk 2>/dev/null >/sys/power/state; dmesg >/frozen
      grep -q 'Image created' /frozen && grep -q 'Cannot find swap device' /frozen`,
    )
    await shell(
      guest,
      'cd /sys/bus/virtio/drivers/9pnet_virtio && d=$(basename $(readlink -f virtio*)) && echo $d >unbind && echo $d >bind',
    )
    expect(await shell(guest, `${mount()} && sha256sum <content`)).toContain(sha256(content))
  })
})

describe.for(['debian:6.12-generic', 'debian:6.1-generic'])('%s', (kernel) => {
  test.override('guestOptions', {
    kernel,
    fork: 'none',
    devices: [{ type: 'virtio-9p', tag: 'share', path: shared }, { type: 'virtio-rng' }],
  })

  test('it is unplugged at work, and leaves when it is unmounted', async ({ guest }) => {
    await shell(guest, `${mount()}; ${work}`)
    await shell(guest, atWork)
    let gone = false
    const unplugged = guest.unplug('share').then(() => {
      gone = true
    })
    // The driver's way out waits for who has it mounted, and serves him meanwhile.
    const before = Number(await shell(guest, 'cat /tmp/round'))
    await shell(guest, `until [ "$(cat /tmp/round)" -gt ${before + 3} ]; do sleep 0.1; done`)
    expect(gone).toBe(false)
    expect(Number(await shell(guest, stop))).toBeGreaterThan(before)
    expect(await shell(guest, 'sha256sum </mnt/content')).toContain(sha256(content))
    await shell(guest, 'umount /mnt')
    await unplugged
    expect(await shell(guest, 'ls /sys/bus/virtio/drivers/9pnet_virtio | grep -c "^virtio" || true')).toBe(
      '0',
    )
    const again = await guest.exec(['sh', '-c', mount()])
    expect(again.status).not.toBe(0)
    // The others are there.
    expect(await shell(guest, 'head -c 64 /dev/hwrng | wc -c')).toBe('64')
  })
})
