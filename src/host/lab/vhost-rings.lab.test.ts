/** Rings of a hostile guest that the lab's kernel serves: fixtures/guests/vhost_rings.c breaks them, its source knows how. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import type { DeviceSpec } from '../../native/contract.ts'
import { openMachineHost } from '../index.ts'
import type { MachineHost } from '../machine-host.ts'
import { bare, finish, start } from './testing/bare-run.ts'

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
    const run = await start(host, {
      ...(await bare('vhost_rings')),
      memory: 8 << 20,
      irqchip: true,
      devices: [vsock(50, 'pci'), vsock(51, 'mmio')],
    })
    expect(await finish(run)).toMatchObject({ reason: 'test-exit', code: 0 })
    expect(cases.length).toBeGreaterThan(10)
    const lines = ['pci', 'mmio'].flatMap((where) => names.map((name) => `ok ${where}: ${name}`))
    expect(run.text().trim().split('\n')).toEqual(lines)
  })
})
