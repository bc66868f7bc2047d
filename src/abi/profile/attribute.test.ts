import { expect, test } from 'vitest'
import { attributionText } from './attribute.ts'
import { compareProfiles } from './diff.ts'
import { profileOf } from './testing/profile-of.ts'

const key = 'cap.KVM_CAP_ONE.sys'

interface Place {
  kernel?: string
  accelerator?: string
  memory?: number
  npt?: string
  value: number
}

/** What is said of one key that has these values in these places. */
function explained(...places: Place[]): string {
  const profiles = places.map(({ kernel = '6.1', accelerator = 'tcg', memory = 1024, npt = 'Y', value }) =>
    profileOf({
      environment: {
        'kernel.release': kernel,
        accelerator,
        'memory.MiB': memory,
        'parameter.kvm_amd.npt': npt,
        // Only this kernel has the one, and another default of the other: nobody changed them.
        ...(kernel === '6.12' ? { 'parameter.kvm.new': 'N', 'parameter.kvm_amd.vls': '0' } : {}),
        ...(kernel === '6.1' ? { 'parameter.kvm_amd.vls': '1' } : {}),
      },
      abi: { [key]: value },
    }),
  )
  const change = compareProfiles(profiles).find((one) => one.key === key)
  return change?.attribution ? attributionText(change.attribution) : 'no change'
}

test('the factor that alone goes with the difference is named', () => {
  expect(
    explained({ value: 1 }, { kernel: '6.12', value: 2 }, { kernel: '6.12', memory: 2048, value: 2 }),
  ).toBe('explained by: kernel')
  expect(explained({ value: 1 }, { kernel: '6.12', value: 1 }, { memory: 2048, value: 2 })).toBe(
    'explained by: memory',
  )
  expect(explained({ value: 1 }, { npt: 'N', value: 2 }, { memory: 2048, value: 1 })).toBe(
    'explained by: module parameters',
  )
})

test('several factors that changed together are ambiguous', () => {
  expect(explained({ value: 1 }, { value: 1 }, { kernel: '6.18', accelerator: 'software', value: 2 })).toBe(
    'ambiguous: kernel or accelerator',
  )
})

test('two that work together are not one', () => {
  expect(
    explained(
      { value: 1 },
      { kernel: '6.12', value: 2 },
      { memory: 2048, value: 3 },
      { kernel: '6.12', memory: 2048, value: 4 },
    ),
  ).toBe('no one factor explains it')
})

test('a difference that goes away again is one, and no difference is none', () => {
  expect(explained({ value: 1 }, { memory: 2048, value: 2 }, { kernel: '6.12', value: 1 })).toBe(
    'explained by: memory',
  )
  expect(explained({ value: 1 }, { memory: 2048, value: 1 }, { kernel: '6.12', value: 1 })).toBe('no change')
})
