/** Rings of a hostile guest that the lab's kernel serves: fixtures/guests/vhost_rings.c breaks them, its source knows how. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import { builtFile } from '../../image/initramfs.ts'
import type { DeviceSpec, MachineEnd } from '../../native/contract.ts'
import { openMachineHost } from '../index.ts'
import type { MachineHost } from '../machine-host.ts'

const source = fileURLToPath(new URL('../../../fixtures/guests/vhost_rings.c', import.meta.url))
const cases = [...readFileSync(source, 'utf8').matchAll(/^ {4}\{"([^"]+)", \w+\},$/gm)].map(
  ([, name]) => name!,
)
const names = ['a driver that keeps the rules', ...cases]

function vsock(cid: number, transport: 'pci' | 'mmio'): DeviceSpec {
  return { type: 'virtio-vsock', name: `vsock-${transport}`, cid, transport, backend: { kind: 'vhost' } }
}

describe.for(['debian:6.12-cloud', 'debian:6.1-cloud'])('on a lab of %s', (kernel) => {
  let host: MachineHost | undefined
  afterAll(() => host?.close())

  test('each broken ring asks for a reset, and works after it', async () => {
    host = await openMachineHost(`lab:${kernel}`)
    const elf = await builtFile('guests/vhost_rings.elf')
    const ended = Promise.withResolvers<MachineEnd>()
    let text = ''
    const machine = await host.createMachine(
      {
        name: 'vhost-rings',
        cpus: 1,
        memory: 8 << 20,
        payload: { kind: 'bare', elf, ring: 0 },
        irqchip: true,
        devices: [vsock(50, 'pci'), vsock(51, 'mmio')],
      },
      (event) => {
        if (event.type === 'data') {
          text += Buffer.from(event.data).toString('latin1')
          machine.consumed(event.channel, event.data.length)
        }
        if (event.type === 'end') ended.resolve(event.end)
      },
    )
    try {
      await machine.start()
      expect(await ended.promise).toMatchObject({ reason: 'test-exit', code: 0 })
    } finally {
      await machine.stop()
    }
    expect(cases.length).toBeGreaterThan(10)
    const lines = ['pci', 'mmio'].flatMap((where) => names.map((name) => `ok ${where}: ${name}`))
    expect(text.trim().split('\n')).toEqual(lines)
  })
})
