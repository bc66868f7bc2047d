import { expect, test } from 'vitest'
import type { MachineSpec } from '../native/contract.ts'
import { checkpointKey } from './checkpoint-key.ts'

const payload = { kind: 'linux', kernel: '/a', initramfs: '/b', cmdline: 'console=ttyS0' } as const
const spec: MachineSpec = { name: 'n', cpus: 1, memory: 2 ** 28, payload, devices: [{ type: 'virtio-rng' }] }
const hashes = { kernel: 'k', initramfs: 'i' }
const key = checkpointKey(spec, hashes)

test('names and paths do not change the key', () => {
  expect(checkpointKey({ ...spec, name: 'm', payload: { ...payload, kernel: '/c' } }, hashes)).toBe(key)
})

test.for<[string, Partial<MachineSpec>, Partial<typeof hashes>]>([
  ['the kernel', {}, { kernel: 'K' }],
  ['the initramfs', {}, { initramfs: 'I' }],
  ['the command line', { payload: { ...payload, cmdline: 'quiet' } }, {}],
  ['the CPUs', { cpus: 2 }, {}],
  ['the memory', { memory: 2 ** 29 }, {}],
  ['the devices', { devices: [] }, {}],
])('%s is part of the key', ([, change, changed]) => {
  expect(checkpointKey({ ...spec, ...change }, { ...hashes, ...changed })).not.toBe(key)
})
