import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, test } from 'vitest'
import type { DeviceSpec, MachineEnd, MachineSpec } from './contract.ts'
import { bareSpec, createBare, whyNoKvm } from './testing/bare-guest.ts'

// The guest breaks the rules and prints a line for each case; the cases are known from its source.
const folder = fileURLToPath(new URL('../../fixtures/guests/', import.meta.url))
const source = readdirSync(folder)
  .filter((name) => /^virtio_/.test(name))
  .map((name) => readFileSync(`${folder}${name}`, 'utf8'))
  .join('')
const cases = [...source.matchAll(/CASE\(\s*"([^"]+)",\s+\w+,\s+(SPLIT|PACKED|BOTH),\s+\w+\)/g)].map(
  ([, name, rings]) => ({ name: name!, rings: rings! }),
)

const places = ['pci', 'mmio'].flatMap((transport) =>
  ['split', 'packed'].map((ring) => ({
    place: `${transport} ${ring}`,
    names: cases.filter(({ rings }) => [ring.toUpperCase(), 'BOTH'].includes(rings)).map(({ name }) => name),
  })),
)

function spec(): MachineSpec {
  const devices = (transport: 'pci' | 'mmio'): DeviceSpec[] => {
    const rings = ['ring_packed', 'in_order']
    const all = { transport, withFeatures: [...rings, 'ring_reset'] }
    const disk = `disk-${transport}`
    return [
      { type: 'virtio-rng', ...all },
      { type: 'virtio-blk', name: disk, backing: { memory: 4 << 20 }, queueSize: 64, ...all },
      { type: 'virtio-balloon', name: `balloon-${transport}`, transport, withFeatures: rings },
      {
        type: 'virtio-scsi',
        name: `scsi-${transport}`,
        luns: [{ name: `lun-${transport}`, memory: 4 << 20 }],
        ...all,
      },
    ]
  }
  return {
    ...bareSpec('virtio_conformance', 3),
    memory: 8 << 20,
    irqchip: true,
    devices: [...devices('pci'), ...devices('mmio')],
  }
}

describe.skipIf(whyNoKvm())('a driver that breaks the rules', () => {
  let end: MachineEnd
  const lines = new Map<string, string>()

  beforeAll(async () => {
    const guest = await createBare(spec())
    await guest.machine.start()
    end = await guest.ended
    for (const line of guest.text('debug').split('\n')) {
      const [, result, place, rest] = /^(ok|not ok) (\w+ \w+): (.*)$/.exec(line) ?? []
      const name = cases.find((one) => rest === one.name || rest?.startsWith(`${one.name}: `))?.name
      if (name) lines.set(`${place}: ${name}`, result === 'ok' ? 'ok' : line)
    }
  }, 60_000)

  test('all cases are known here, and the guest came to their end', () => {
    expect(cases.length).toBeGreaterThan(70)
    expect(end).toMatchObject({ reason: 'test-exit', code: 0 })
    expect(lines.size).toBe(places.flatMap(({ names }) => names).length)
  })

  describe.each(places)('$place', ({ place, names }) => {
    test.each(names)('%s', (name) => {
      expect(lines.get(`${place}: ${name}`)).toBe('ok')
    })
  })
})
