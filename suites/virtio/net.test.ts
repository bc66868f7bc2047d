import type { Guest } from 'kvitest'
import { expect, test } from 'kvitest/test'
import { shell } from './shell.ts'

const network = { type: 'virtio-net', name: 'net0', backend: { kind: 'switch', network: 'forks' } } as const

test.override('guestOptions', {
  devices: [network, { type: 'virtio-net', name: 'wire', backend: { kind: 'peer' } }],
  files: { '/bin/talk': 'build/Release/programs/talk' },
})

test('forks have MAC addresses of their own, and the switch takes frames to each', async ({ guest }) => {
  await shell(guest, 'ip link set eth0 up')
  const first = { mac: '02:00:00:00:00:31', address: '198.51.100.1' }
  const second = { mac: '02:00:00:00:00:32', address: '198.51.100.2' }
  await using checkpoint = await guest.checkpoint()
  const fork = (mac: string) => checkpoint.fork({ devices: { net0: { mac, network: 'two-forks' } } })
  await using one = await fork(first.mac)
  await using two = await fork(second.mac)
  for (const [each, { mac, address }] of [
    [one, first],
    [two, second],
  ] as const) {
    expect(await shell(each, 'cat /sys/class/net/eth0/address')).toBe(mac)
    await shell(each, `ip addr add ${address}/24 dev eth0`)
  }
  await shell(one, `ping -c 3 -W 10 -s 1400 ${second.address}`)
  await shell(two, `ping -c 3 -W 10 ${first.address}`)
  expect(await shell(one, `ip neigh show ${second.address}`)).toContain(second.mac)
  expect(await shell(two, `ip neigh show ${first.address}`)).toContain(first.mac)
  // Their parent is on another network, with the address it had.
  expect(await shell(guest, 'cat /sys/class/net/eth0/address')).toBe('02:6b:76:00:01:01')
})

test('a fork whose driver starts anew reads its own address', async ({ guest }) => {
  await using fork = await guest.fork({ devices: { net0: { mac: '02:00:00:00:00:41' } } })
  await shell(
    fork,
    'cd /sys/bus/virtio/drivers/virtio_net && d=$(basename $(echo virtio*)) && echo $d >unbind && echo $d >bind',
  )
  expect(await shell(fork, 'cat /sys/class/net/*/address')).toContain('02:00:00:00:00:41')
})

test('an identity that no device has is refused', async ({ guest }) => {
  await using checkpoint = await guest.checkpoint()
  await expect(checkpoint.fork({ devices: { net7: { mac: '02:00:00:00:00:41' } } })).rejects.toThrow(
    'no device named net7',
  )
  await expect(checkpoint.fork({ devices: { net0: { mac: '01:00:00:00:00:41' } } })).rejects.toThrow(
    "is no station's",
  )
})

test('forks are made while frames flow: they go on, and so does their parent', async ({ guest }) => {
  // eth1 is the one with the peer.
  await shell(guest, 'ip link set eth1 up && ip addr add 192.0.2.2/24 dev eth1 && talk udp 192.0.2.1 7 100 1')
  await shell(guest, '(talk udp 192.0.2.1 7 1400 3000; echo $? >/tmp/status) >/dev/null 2>&1 &')
  const sent = async (each: Guest) =>
    Number(await shell(each, 'cat /sys/class/net/eth1/statistics/tx_packets'))
  const before = await sent(guest)
  await expect.poll(() => sent(guest), { timeout: 20_000 }).toBeGreaterThan(before)
  await using checkpoint = await guest.checkpoint()
  await using one = await checkpoint.fork()
  await using two = await checkpoint.fork()
  for (const each of [one, two, guest]) await shell(each, 'talk udp 192.0.2.1 7 1400 20')
  expect(await shell(guest, 'while [ ! -s /tmp/status ]; do sleep 0.1; done; cat /tmp/status')).toBe('0')
  // The fork's own peer knows nothing of what its parent's was asked: one datagram may be lost, no more.
  const seen = await sent(one)
  await shell(one, 'talk udp 192.0.2.1 7 1400 20')
  expect(await sent(one)).toBeGreaterThanOrEqual(seen + 20)
})
