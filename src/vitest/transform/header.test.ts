import { describe, expect, test } from 'vitest'
import { parseHeader } from './header.ts'
import { devicesOf, variantsOf } from './script.ts'

const MIB = 1024 ** 2

function header(...lines: string[]) {
  return parseHeader(['#!/bin/sh', ...lines, 'echo hi'].join('\n'), 'x.tap.sh')
}

function message(...lines: string[]): string {
  try {
    header(...lines)
  } catch (error) {
    return (error as Error).message.split('; docs/')[0]!
  }
  return 'no error'
}

test('a script without header gets one guest of the defaults', () => {
  expect(header()).toMatchObject({
    guest: { cpus: [1], memory: [256 * MIB], devices: [], ports: [] },
    timeout: 120_000,
    only: false,
    line: 1,
  })
})

test("how long a boot may take is the host's to say, unless a header says it", () => {
  expect(header().guest.bootTimeout).toBeUndefined()
  expect(header('# guest: { bootTimeout: 90s }').guest.bootTimeout).toBe(90_000)
})

test('flow YAML asks for a machine', () => {
  const parsed = header(
    '# guest: { cpus: [1, 2, 4], memory: 1G, devices: [virtio-rng], ports: [a, { name: b, peer: echo }] }',
    '# timeout: 90s',
    '# env: { LEVEL: 3 }',
  )
  expect(parsed).toMatchObject({
    guest: {
      cpus: [1, 2, 4],
      memory: [1024 * MIB],
      devices: [{ type: 'virtio-rng' }, { type: 'virtio-console', ports: [{ name: 'a' }, { name: 'b' }] }],
      ports: [
        { name: 'a', peer: 'sink', console: false },
        { name: 'b', peer: 'echo', console: false },
      ],
    },
    timeout: 90_000,
    env: { LEVEL: '3' },
    line: 2,
  })
})

test('block YAML asks for a machine, prose around it is let be', () => {
  const parsed = header(
    '# What this is about: virtio.',
    '# guest:',
    '#   memory: [128M, 512M]',
    '#   ports:',
    '#     - { name: t, peer: terminal, console: true }',
    '#     - { name: h, peer: hold }',
    '# Note: more prose.',
    '# skip: not today',
  )
  expect(parsed.guest.memory).toEqual([128 * MIB, 512 * MIB])
  expect(parsed.guest.devices).toEqual([
    {
      type: 'virtio-console',
      ports: [{ name: 't', console: true }, { name: 't.control' }, { name: 'h' }, { name: 'h.control' }],
    },
  ])
  expect(parsed.skip).toBe('not today')
})

test('points that may skip themselves are declared, in flow or block', () => {
  expect(header('# skips: ["cpu * is up", script]').skips).toEqual(['cpu * is up', 'script'])
  expect(header('# skips:', '#   - a > b', '# skip: why').skips).toEqual(['a > b'])
  expect(header().skips).toEqual([])
})

test('comments below the first command are no header', () => {
  const parsed = parseHeader('#!/bin/sh\ntrue\n# guest: { cpus: 4 }\n', 'x.tap.sh')
  expect(parsed.guest.cpus).toEqual([1])
})

test('lists of cpus and memory make every combination', () => {
  const { guest } = header('# guest: { cpus: [1, 2], memory: [128M, 1G] }')
  expect(variantsOf(guest).map((variant) => variant.name)).toEqual([
    'cpus=1 memory=128M',
    'cpus=1 memory=1024M',
    'cpus=2 memory=128M',
    'cpus=2 memory=1024M',
  ])
})

test.each([
  ['30s', 30_000],
  ['0s', 0],
  ['{ boot: 1m, shutdown: 500ms }', { boot: 60_000, shutdown: 500 }],
])('idleLimit: %s', (text, limit) => {
  expect(header(`# guest: { idleLimit: ${text} }`).guest.idleLimit).toEqual(limit)
})

describe('one clear error at script:line for', () => {
  test.each([
    [
      'an idle limit without unit',
      ['# guest: { idleLimit: { boot: 20 } }'],
      'x.tap.sh:2: want a duration such as 20s, or 0s for none, got 20',
    ],
    [
      'an idle limit of nothing',
      ['# guest: { idleLimit: { reboot: 20s } }'],
      "x.tap.sh:2: unknown key 'reboot'",
    ],
    [
      'an unknown key',
      ['# guest: { cpu: 1 }'],
      "x.tap.sh:2: unknown key 'cpu' in guest; known are cpus, memory, kernel, entry, devices, transport, ring, ports, cmdline, modules, packages, files, bootTimeout, idleLimit, fork",
    ],
    [
      'an unknown key in a block',
      ['# guest:', '#   cpus: 1', '#   mem: 1G'],
      /^x\.tap\.sh:4: unknown key 'mem'/,
    ],
    ['bad YAML', ['# guest: { cpus: [1 }'], /^x\.tap\.sh:2: guest: bad YAML: /],
    ['a guest that is no map', ['# guest: 4'], 'x.tap.sh:2: guest: want keys and values, got 4'],
    ['too many cpus', ['# guest: { cpus: 99 }'], 'x.tap.sh:2: cpus: want 1 to 8, got 99'],
    ['no cpus', ['# guest: { cpus: [] }'], 'x.tap.sh:2: an empty list of cpus: no guest would run'],
    ['the same cpus twice', ['# guest: { cpus: [2, 2] }'], 'x.tap.sh:2: the same cpus twice'],
    [
      'an unknown way to fork',
      ['# guest: { fork: test }'],
      'x.tap.sh:2: fork: want file, point, none, got "test"',
    ],
    ['too little memory', ['# guest: { memory: 1M }'], 'x.tap.sh:2: memory: want 64M to 8G, got "1M"'],
    [
      'a second balloon',
      ['# guest: { devices: [virtio-balloon, { type: virtio-balloon, name: two }] }'],
      'x.tap.sh:2: a second virtio-balloon',
    ],
    [
      'an unknown device',
      ['# guest: { devices: [virtio-gpu] }'],
      'x.tap.sh:2: unknown device "virtio-gpu"; known are virtio-rng, virtio-console, virtio-blk, virtio-net, virtio-vsock, virtio-balloon, virtio-9p, virtio-scsi',
    ],
    [
      'an unknown peer',
      ['# guest: { ports: [{ name: a, peer: eko }] }'],
      /^x\.tap\.sh:2: unknown peer "eko"; known are sink, echo/,
    ],
    ['two ports of a name', ['# guest: { ports: [a, a] }'], "x.tap.sh:2: two ports named 'a'"],
    [
      "a port of the agent's",
      ['# guest: { ports: [org.kvitest.agent] }'],
      /^x\.tap\.sh:2: port name: want letters/,
    ],
    [
      'a terminal that is no console',
      ['# guest: { ports: [{ name: a, peer: terminal }] }'],
      /needs console: true$/,
    ],
    ['a bad duration', ['# timeout: 60'], 'x.tap.sh:2: want a duration such as 500ms, 60s or 5m, got 60'],
    ['a skip without reason', ['# skip:'], "x.tap.sh:2: skip: say why, '# skip: reason'"],
    ['a second guest', ['# guest: {}', '# guest: {}'], "x.tap.sh:3: a second 'guest:' line"],
    ['a key in the wrong case', ['# Guest: {}'], "x.tap.sh:2: unknown key 'Guest'; did you mean 'guest'?"],
    ['skips that name nothing', ['# skips: []'], 'x.tap.sh:2: skips: want a list of names of points, got []'],
    ['skips without a list', ['# skips: "a"'], 'x.tap.sh:2: skips: want a list of names of points, got "a"'],
    ['a bad variable', ['# env: { 1X: a }'], "x.tap.sh:2: env: '1X' is no variable name"],
  ])('%s', (_, lines, expected) => {
    expect(message(...lines)).toEqual(
      typeof expected === 'string' ? expected : expect.stringMatching(expected),
    )
  })
})

test('transports and rings are axes of the devices that do not say their own', () => {
  const { guest } = header(
    '# guest:',
    '#   transport: [pci, mmio]',
    '#   ring: [split, packed]',
    '#   devices: [virtio-rng, { type: virtio-rng, transport: pci, withFeatures: [notification_data] }]',
  )
  const variants = variantsOf(guest)
  expect(variants.map((variant) => variant.name)).toEqual([
    'transport=pci ring=split',
    'transport=pci ring=packed',
    'transport=mmio ring=split',
    'transport=mmio ring=packed',
  ])
  expect(devicesOf(guest, variants[0]!)).toEqual(guest.devices)
  expect(devicesOf(guest, variants[3]!)).toEqual([
    { type: 'virtio-rng', transport: 'mmio', withFeatures: ['ring_packed'] },
    { type: 'virtio-rng', transport: 'pci', withFeatures: ['notification_data', 'ring_packed'] },
  ])
  expect(message('# guest: { ring: [split, round] }')).toBe(
    'x.tap.sh:2: ring: want split or packed, got "round"',
  )
  expect(message('# guest: { devices: [{ type: virtio-rng, transport: ccw }] }')).toBe(
    'x.tap.sh:2: transport: want pci or mmio, got "ccw"',
  )
})

test('disks are asked for by size or by a file beside the script', () => {
  const { devices } = header(
    '# guest:',
    '#   devices:',
    '#     - { type: virtio-blk, memory: 64M, serial: S, readOnly: true, queues: 2, withoutFeatures: [discard] }',
    '#     - { type: virtio-blk, overlay: ./disk.img, blockSize: 4096, queueSize: 16 }',
    '#     - { type: virtio-blk, memory: 512, name: small }',
    '#     - { type: virtio-rng, withoutFeatures: [event_idx], personality: [used-length-zero] }',
  ).guest
  expect(devices).toEqual([
    {
      type: 'virtio-blk',
      name: 'disk0',
      backing: { memory: 64 * MIB },
      serial: 'S',
      readOnly: true,
      queues: 2,
      withoutFeatures: ['discard'],
    },
    { type: 'virtio-blk', name: 'disk1', backing: { overlay: './disk.img' }, blockSize: 4096, queueSize: 16 },
    { type: 'virtio-blk', name: 'small', backing: { memory: 512 } },
    { type: 'virtio-rng', withoutFeatures: ['event_idx'], personality: ['used-length-zero'] },
  ])
})

test.for([
  [
    '{ type: virtio-blk }',
    'x.tap.sh:2: a virtio-blk: want either memory (its size) or overlay (a file beside the script)',
  ],
  ['{ type: virtio-blk, memory: 100 }', 'x.tap.sh:2: memory: want a size such as 64M, got 100'],
  ['{ type: virtio-blk, memory: 1M, file: ./x }', "x.tap.sh:2: unknown key 'file'"],
  [
    '{ type: virtio-blk, memory: 1M, serial: a-serial-of-twenty-one }',
    'x.tap.sh:2: serial: 20 bytes at most, got "a-serial-of-twenty-one"',
  ],
  ['{ type: virtio-blk, memory: 1M, queues: two }', 'x.tap.sh:2: queues: want a whole number, got "two"'],
  [
    '{ type: virtio-blk, memory: 1M }, { type: virtio-blk, memory: 1M, name: disk0 }',
    "x.tap.sh:2: two disks named 'disk0'",
  ],
  ['{ type: virtio-rng, withoutFeatures: mq }', 'x.tap.sh:2: want a list, got "mq"'],
] as const)('a header with %s is refused', ([device, wanted]) => {
  expect(message(`# guest: { devices: [${device}] }`)).toBe(wanted)
})

test("a virtio-scsi has luns of its own, or those of a target of the host's kernel", () => {
  const { devices } = header(
    '# guest:',
    '#   devices:',
    '#     - { type: virtio-scsi, luns: [{ memory: 1M }] }',
    '#     - { type: virtio-scsi, backend: { vhost: naa.5001 } }',
  ).guest
  expect(devices).toEqual([
    { type: 'virtio-scsi', name: 'scsi0', luns: [{ name: 'lun0', memory: 1 << 20, lun: 0 }] },
    { type: 'virtio-scsi', name: 'scsi1', luns: [], backend: { kind: 'vhost', wwpn: 'naa.5001' } },
  ])
})

test('network devices and a vsock are asked for by what differs from the usual', () => {
  const { devices } = header(
    '# guest:',
    '#   devices:',
    '#     - virtio-net',
    "#     - { type: virtio-net, name: b, mac: '02:00:00:00:00:0a', mtu: 9000, queues: 4, backend: { switch: lan } }",
    '#     - { type: virtio-net, backend: peer, withoutFeatures: [mrg_rxbuf] }',
    '#     - { type: virtio-net, backend: { tap: tap0 } }',
    '#     - { type: virtio-net, backend: { tap: tap1, vhost: true } }',
    '#     - { type: virtio-vsock, cid: 42, backend: vhost }',
  ).guest
  expect(devices).toEqual([
    { type: 'virtio-net', name: 'net0', backend: { kind: 'peer' } },
    {
      type: 'virtio-net',
      name: 'b',
      mac: '02:00:00:00:00:0a',
      mtu: 9000,
      queues: 4,
      backend: { kind: 'switch', network: 'lan' },
    },
    { type: 'virtio-net', name: 'net2', backend: { kind: 'peer' }, withoutFeatures: ['mrg_rxbuf'] },
    { type: 'virtio-net', name: 'net3', backend: { kind: 'tap', interface: 'tap0' } },
    { type: 'virtio-net', name: 'net4', backend: { kind: 'tap', interface: 'tap1', vhost: true } },
    { type: 'virtio-vsock', name: 'vsock0', cid: 42, backend: { kind: 'vhost' } },
  ])
})

test.for([
  ['{ type: virtio-net, mac: 12 }', "x.tap.sh:2: mac: want '02:00:00:00:00:01', got 12"],
  ['{ type: virtio-net, mtu: 67 }', 'x.tap.sh:2: mtu: want 68 to 65535, got 67'],
  [
    '{ type: virtio-scsi, luns: [{ memory: 1M }], backend: { vhost: naa.5001 } }',
    'x.tap.sh:2: backend: the luns are those of the target, give none',
  ],
  ['{ type: virtio-net, queues: 9 }', 'x.tap.sh:2: queues: want 1 to 8, got 9'],
  [
    '{ type: virtio-net, backend: tap }',
    "x.tap.sh:2: backend: want peer, { switch: NAME } or { tap: NAME }, got 'tap'",
  ],
  ['{ type: virtio-net, backend: { tap: a, switch: b } }', 'x.tap.sh:2: backend: switch or tap, not both'],
  [
    '{ type: virtio-net, backend: { switch: b, vhost: true } }',
    'x.tap.sh:2: vhost: true or false, beside a tap',
  ],
  ['{ type: virtio-net, backend: { bridge: b } }', "x.tap.sh:2: unknown key 'bridge'"],
  ['virtio-net, { type: virtio-net, name: net0 }', "x.tap.sh:2: two network devices named 'net0'"],
  ["{ type: virtio-9p, path: ./x, tag: '' }", 'x.tap.sh:2: want text, got ""'],
  ['{ type: virtio-9p }', 'x.tap.sh:2: want text, got undefined'],
  [
    '{ type: virtio-9p, path: ./x }, { type: virtio-9p, path: ./y }',
    "x.tap.sh:2: two virtio-9p tagged 'share'",
  ],
  ['{ type: virtio-vsock, cid: 2 }', 'x.tap.sh:2: cid: want 3 to 4294967294, got 2'],
  [
    '{ type: virtio-vsock, backend: kernel }',
    'x.tap.sh:2: backend: want streams, vhost or { unix: PATH }, got "kernel"',
  ],
  ['virtio-vsock, virtio-vsock', 'x.tap.sh:2: a second virtio-vsock'],
] as const)('a header with %s is refused', ([device, wanted]) => {
  expect(message(`# guest: { devices: [${device}] }`)).toBe(wanted)
})
