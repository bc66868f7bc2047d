/** Devices that leave a running guest with requests in flight: ejected by it (ACPI), and by surprise. */
import type { Guest, GuestDisk } from 'kvitest'
import { expect, test } from 'kvitest/test'
import { shell } from './shell.ts'

const mebibyte = 1024 * 1024

test.override('guestOptions', {
  devices: [
    { type: 'virtio-rng' },
    { type: 'virtio-blk', name: 'disk0', backing: { memory: 8 * mebibyte } },
    { type: 'virtio-net', name: 'net0', backend: { kind: 'peer' } },
    { type: 'virtio-vsock', name: 'vsock0', cid: 43 },
    { type: 'virtio-scsi', name: 'scsi0', luns: [{ name: 'unit', memory: mebibyte }] },
    { type: 'virtio-console', ports: [{ name: 'test.port' }] },
    { type: 'virtio-balloon', name: 'balloon0', withoutFeatures: ['page_reporting'] },
  ],
  files: { '/bin/talk': 'build/Release/programs/talk' },
})

/**
 * Writers of every device, until it goes (dd makes a file of that name then). The disks' blocks are numbered: block N has N in
 * all of its bytes.
 */
const load = `
  ip link set eth0 up; ip addr add 192.0.2.2/24 dev eth0
  while [ ! -b /dev/sda ] || [ ! -e /dev/virtio-ports/test.port ]; do sleep 0.05; done
  for disk in vda sda; do
    (n=1; while head -c 4096 /dev/zero | tr '\\0' "\\\\$(printf %03o $n)" |
      dd of=/dev/$disk bs=4096 seek=$n oflag=direct conv=notrunc 2>/dev/null && [ -b /dev/$disk ]; do
        echo $n >/tmp/$disk-written; n=$((n + 1)); [ $n -lt 250 ] || n=1; done; : >/tmp/$disk-ended) >/dev/null 2>&1 &
  done
  port=$(readlink -f /dev/virtio-ports/test.port)
  (while [ -c $port ] && head -c 5000 /dev/zero >$port; do :; done; : >/tmp/port-ended) >/dev/null 2>&1 &
  (while head -c 64 /dev/hwrng; do :; done; : >/tmp/rng-ended) >/dev/null 2>&1 &
  (while talk udp 192.0.2.1 7 1400 20; do :; done; : >/tmp/net-ended) >/dev/null 2>&1 &
  while [ ! -s /tmp/vda-written ] || [ ! -s /tmp/sda-written ] || [ "$(cat /sys/class/net/eth0/statistics/rx_packets)" -lt 5 ]; do sleep 0.05; done`

/** Every function of virtio. */
const functions = 'for d in /sys/bus/pci/devices/*; do [ $(cat $d/vendor) != 0x1af4 ] || cat $d/device; done'
const agent = '0x1043'
const ended = 'for f in vda sda rng net port; do while [ ! -e /tmp/$f-ended ]; do sleep 0.05; done; done'
const names = ['disk0', 'virtio-rng', 'net0', 'vsock0', 'scsi0', 'test.port', 'balloon0']

/** What the guest says it wrote is there, block by block, though the disks have left. */
async function expectWritten(guest: Guest, disks: Record<string, GuestDisk>): Promise<void> {
  for (const [name, disk] of Object.entries(disks)) {
    const last = Number(await shell(guest, `cat /tmp/${name}-written`))
    const content = Buffer.from(await disk.read(0, 250 * 4096))
    for (let n = 1; n <= last; n++) {
      expect([...new Set(content.subarray(n * 4096, (n + 1) * 4096))], name).toEqual([n])
    }
  }
}

test('what is no device, and the agent, are not unplugged', { timeout: 240_000 }, async ({ guest }) => {
  await expect(guest.unplug('disk9')).rejects.toMatchObject({ code: 'ENOENT' })
  await expect(guest.unplug('org.kvitest.agent', { surprise: true })).rejects.toMatchObject({
    code: 'EINVAL',
  })
})

test('seven devices at work are ejected, and the guest lives on', { timeout: 240_000 }, async ({ guest }) => {
  await shell(guest, load)
  await guest.balloon().inflate(16 * mebibyte)
  for (const name of names) await guest.unplug(name)
  await expect.poll(() => shell(guest, functions), { timeout: 30_000 }).toBe(agent)
  await shell(guest, ended)
  expect(await shell(guest, 'ls /sys/block | grep -c [sv]d || true')).toBe('0')
  expect(await shell(guest, 'ls /sys/class/net')).toBe('lo')
  await expectWritten(guest, { vda: guest.disk('disk0'), sda: guest.scsi().disk('unit') })
  await expect(guest.unplug('disk0')).rejects.toMatchObject({ code: 'ENODEV' })

  // A fork is without them too, and a rescan finds nothing where they were.
  await using fork = await guest.fork()
  expect(await shell(fork, `echo 1 >/sys/bus/pci/rescan; ${functions}`)).toBe(agent)
  await expectWritten(fork, { vda: fork.disk('disk0'), sda: fork.scsi().disk('unit') })
})

test('a disk is taken away as a surprise, and nothing answers in its place', async ({ guest }) => {
  await shell(guest, 'echo kept | dd of=/dev/vda bs=512 conv=sync oflag=direct')
  await guest.unplug('disk0', { surprise: true })
  expect(Buffer.from(await guest.disk('disk0').read(0, 5)).toString()).toBe('kept\n')
  // Its registers read as all ones, as those of any PCI device that is gone. Linux up to 6.12 waits for a device status of 0
  // there without end (docs/findings.md). A release that does not will fail here: then ask that the device goes.
  const stack = 'cat $(grep -l kacpi_hotplug /proc/[0-9]*/comm | sed "s/comm$/stack/")'
  await expect.poll(() => shell(guest, stack), { timeout: 30_000 }).toContain('vp_reset')
  expect(await shell(guest, 'ls /sys/block | grep -c vd || true')).toBe('0')
  // The others work on.
  await shell(guest, 'ip link set eth0 up; ip addr add 192.0.2.2/24 dev eth0; talk udp 192.0.2.1 7 1400 5')
  expect(await shell(guest, 'head -c 64 /dev/hwrng | wc -c')).toBe('64')
  // It cannot power itself off any more.
  await guest.stop({ force: true })
})

test('a guest that powers a slot off by itself ejects its device', async ({ guest }) => {
  const slot = await shell(
    guest,
    'f=$(basename $(readlink -f /sys/block/vda/device/..) .0); grep -lx "$f" /sys/bus/pci/slots/*/address',
  )
  await shell(guest, `echo 0 >${slot.replace('/address', '/power')}`)
  expect(await shell(guest, 'ls /sys/block | grep -c vd || true')).toBe('0')
  await expect(guest.unplug('disk0')).rejects.toMatchObject({ code: 'ENODEV' })
})
