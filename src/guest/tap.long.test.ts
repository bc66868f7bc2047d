/** Guests on taps of a lab: our own frames and vhost-net's. The other end is the lab's kernel, and programs there. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { NetDevice } from '../native/contract.ts'
import { guestKernels } from './testing/guest-kernels.ts'
import { again, background, idleLimit, inside, type LabSide, openLabSide } from './testing/lab-side.ts'
import type { Guest } from './types.ts'

const streamBytes = 1_000_000
const largestFrame = 1514

/** Two digests, a line each: of what was sent, and the one that the receiver made of it. */
const sendNoise = (address: string) =>
  `head -c ${streamBytes} /dev/urandom >/tmp/noise && sha256sum </tmp/noise &&
   talk tcp ${address} 9 </tmp/noise`

/** All that the driver could leave to the device, and nothing of it. */
const networks = [
  { network: '10.9.0', withoutFeatures: [] },
  { network: '10.9.1', withoutFeatures: ['csum', 'guest_csum', 'mrg_rxbuf'] },
]

describe.for(guestKernels)('on a lab of %s', (kernel) => {
  let side: LabSide

  beforeAll(async () => {
    side = await openLabSide(kernel)
  })
  afterAll(() => side?.close())

  const lab = (script: string) => side.lab(script)
  const takeUp = (tap: string, network: string) =>
    lab(`ip addr add ${network}.1/24 dev ${tap}; ip link set ${tap} up`)

  describe.for([false, true])('a tap, vhost: %s', (vhost) => {
    let guest: Guest

    beforeAll(async () => {
      guest = await side.boot(
        networks.map(({ withoutFeatures }, i) => ({
          type: 'virtio-net',
          name: `net${i}`,
          mac: `02:00:00:00:00:0${i}`,
          backend: { kind: 'tap', interface: `kvitest${i}`, vhost },
          withoutFeatures,
        })),
      )
      for (const [i, { network }] of networks.entries()) {
        await takeUp(`kvitest${i}`, network)
        await inside(
          guest,
          `for net in /sys/class/net/*; do grep -q 02:00:00:00:00:0${i} $net/address && break; done
           net=\${net##*/}; ip addr add ${network}.2/24 dev $net; ip link set $net up; ln -s /sys/class/net/$net /tmp/net${i}`,
        )
      }
      await inside(guest, `${background('talk udp-echo 7')}\n${background('nc -ll -p 9 -e sha256sum')}`)
    }, 300_000)
    afterAll(async () => {
      await guest?.stop({ force: true })
    })

    /** Bytes and frames of one direction, as the guest's driver counts them; what stands for several frames is one. */
    async function counted(from: Guest, at: number, way: 'rx' | 'tx'): Promise<[number, number]> {
      const read = `cd /tmp/net${at}/statistics; cat ${way}_bytes ${way}_packets`
      const [bytes, packets] = (await inside(from, read)).split('\n').map(Number)
      return [bytes!, packets!]
    }

    /** Ping, datagrams and a stream, each way, on a network; the bytes of a frame of each stream, on the average. */
    async function exchange(from: Guest, at: number): Promise<{ received: number; sent: number }> {
      const { network } = networks[at]!
      const [ours, theirs] = [`${network}.1`, `${network}.2`]
      const averageOf = async (way: 'rx' | 'tx', stream: () => Promise<unknown>) => {
        const [bytes, packets] = await counted(from, at, way)
        await stream()
        const [bytesNow, packetsNow] = await counted(from, at, way)
        return (bytesNow - bytes) / (packetsNow - packets)
      }
      const expectSame = (said: string) => {
        const digests = said.split('\n').slice(-2)
        expect(digests).toEqual([digests[0], digests[0]])
      }
      await lab(again(`ping -c 1 -W 2 ${theirs}`))
      await inside(from, `ping -c 2 -W 10 ${ours}`)
      await lab(`talk udp ${theirs} 7 1400 20`)
      await lab(`talk udp ${theirs} 7 9000 5`)
      const received = await averageOf('rx', async () => expectSame(await lab(sendNoise(theirs))))
      await Promise.all([
        inside(from, `${again(`talk udp ${ours} 7 1400 20`)}; ${again(`talk tcp ${ours} 8 </dev/null`)}`),
        lab('talk udp-echo 7 & nc -l -p 8 -e cat'),
      ])
      const sent = await averageOf('tx', async () => {
        const [said] = await Promise.all([
          inside(from, again(sendNoise(ours))),
          lab('nc -l -p 9 -e sha256sum'),
        ])
        expectSame(said)
      })
      return { received, sent }
    }

    test('what was negotiated crosses it whole, each way', async () => {
      const average = await exchange(guest, 0)
      // Segments of many frames, with checksums left to do.
      expect(average.received).toBeGreaterThan(largestFrame)
      expect(average.sent).toBeGreaterThan(largestFrame)
    })

    test('a driver that takes neither segments nor checksums gets frames, and sends them', async () => {
      const average = await exchange(guest, 1)
      expect(average.received).toBeLessThan(largestFrame)
      expect(average.sent).toBeLessThan(largestFrame)
    })

    test('without a cable nothing comes, and nothing of it later', async () => {
      // The field InEchos of RFC 2011's counters.
      const echoes = () => inside(guest, "awk '/^Icmp: [0-9]/ { print $10 }' /proc/net/snmp")
      await guest.setLink('net0', false)
      await inside(guest, again('grep -qx 0 /tmp/net0/carrier'))
      const before = Number(await echoes())
      await lab('! ping -c 3 -W 1 10.9.0.2')
      await guest.setLink('net0', true)
      await inside(guest, again('grep -qx 1 /tmp/net0/carrier'))
      await lab('ping -c 1 -W 30 10.9.0.2')
      expect(Number(await echoes())).toBe(before + 1)
    })

    test('a fork needs interfaces of its own, and its parent goes on', async () => {
      await using checkpoint = await guest.checkpoint()
      await exchange(guest, 0)
      await expect(checkpoint.fork()).rejects.toThrow(
        'open tap: interface kvitest0 (Device or resource busy); another process or guest has it; give each guest its own',
      )
      const devices = { net0: { network: 'kvitest2' }, net1: { network: 'kvitest3' } }
      await using fork = await checkpoint.fork({ devices, idleLimit })
      for (const [i, { network }] of networks.entries()) {
        await lab(`ip addr del ${network}.1/24 dev kvitest${i}`)
        await takeUp(`kvitest${i + 2}`, network)
        await exchange(fork, i)
        await lab(`ip addr del ${network}.1/24 dev kvitest${i + 2}`)
        await takeUp(`kvitest${i}`, network)
      }
      await exchange(guest, 0)
    })
  })

  test('a lab whose kernel has neither says what to load', async () => {
    const backend = { kind: 'tap', interface: 'kvitest0' } as const
    const device: NetDevice = { type: 'virtio-net', name: 'net0', backend: { ...backend, vhost: true } }
    await lab('rmmod vhost_net')
    await expect(side.boot([device])).rejects.toThrow(
      'open vhost: /dev/vhost-net of this host, for net0 (No such file or directory); ' +
        'load its module (modprobe vhost_net), or leave vhost out of its backend',
    )
    await lab('rmmod tun')
    await expect(side.boot([{ ...device, backend }])).rejects.toThrow(
      'open tap: /dev/net/tun (No such file or directory); load the tun module: modprobe tun',
    )
  })
})
