import { describe, expect, test } from 'vitest'
import { axisValue, type Coordinates, cellAxes, cellName, cellTags, isAmbiguous, whereElse } from './axes.ts'

describe('the name of a cell', () => {
  test.for<[string, Coordinates]>([
    ['local > probe-6.1', { host: 'local', tool: 'probe-6.1' }],
    ['lab:a > vmm > g', { host: 'lab:a', tool: 'vmm', guest: 'g' }],
    ['lab:a > vmm machine:smp > g', { host: 'lab:a', tool: 'vmm', guest: 'g', machine: 'smp' }],
    ['local > units accelerator:tcg', { host: 'local', tool: 'units', accelerator: 'tcg' }],
    [
      'local > qemu-7.2 accelerator:tcg machine:big.1 > g',
      { host: 'local', tool: 'qemu-7.2', accelerator: 'tcg', machine: 'big.1', guest: 'g' },
    ],
    [
      'local > probe with errno=KVM_RUN:EINTR:ENOMEM accelerator:tcg',
      { host: 'local', tool: 'probe with errno=KVM_RUN:EINTR:ENOMEM', accelerator: 'tcg' },
    ],
  ])('%s says where it is on each axis', ([id, at]) => {
    expect([cellName(at), cellAxes(id)]).toEqual([id, at])
  })

  test('does not have what is as ever', () => {
    const at = { host: 'h', tool: 't', accelerator: 'kvm', machine: 'default' }
    expect(cellName(at)).toBe('h > t')
    expect([axisValue({ host: 'h', tool: 't' }, 'machine'), axisValue(at, 'guest')]).toEqual([
      'default',
      undefined,
    ])
  })

  test.each(['a > b', 'a machine:x', 'a accelerator:kvm'])('%s is no name of a tool', (name) => {
    expect([isAmbiguous(name), isAmbiguous(name.replace(/[>:]/, '-'))]).toEqual([true, false])
  })
})

test('of another cell the values that are its own', () => {
  const cell = { host: 'lab:new', tool: 'qemu', guest: 'g', accelerator: 'tcg' }
  expect(whereElse({ host: 'lab:old', tool: 'qemu', guest: 'g', accelerator: 'tcg' }, cell)).toBe('lab:old')
  expect(whereElse({ host: 'lab:old', tool: 'qemu', guest: 'g' }, cell)).toBe('lab:old, accelerator kvm')
  expect(whereElse({ ...cell, machine: 'smp' }, cell)).toBe('machine smp')
})

test('tags have the place on each axis, and nothing that an expression of tags would read', () => {
  expect(cellTags({ host: 'lab:debian:6.1-cloud@oldest', tool: 'vmm', guest: 'g' })).toEqual([
    'host:lab:debian:6.1-cloud@oldest',
    'tool:vmm',
    'guest:g',
    'accelerator:kvm',
    'machine:default',
  ])
  expect(cellTags({ host: 'h', tool: 'a (b) & c|!*' })).toEqual([
    'host:h',
    'tool:a__b____c___',
    'accelerator:kvm',
    'machine:default',
  ])
})
