import { expect, test } from 'vitest'
import { bytesOf } from './size.ts'

test.for<[unknown, number]>([
  ['1073741824', 2 ** 30],
  [4096, 4096],
  ['64K', 65536],
  ['1024k', 2 ** 20],
  ['512M', 2 ** 29],
  ['512MiB', 2 ** 29],
  [' 2g ', 2 ** 31],
])('%s is %d bytes', ([value, bytes]) => {
  expect(bytesOf(value)).toBe(bytes)
})

test.for(['', 'M', '1.5G', '-1M', '1T', '1 G', '12 apples', '99999999999999999G', Number.NaN, undefined])(
  '%s is no size',
  (value) => {
    expect(bytesOf(value)).toBeUndefined()
  },
)
