import { expect, test } from 'vitest'
import { gibibytes, parseSize } from './memory.ts'

test('a size is read, and what is none is refused', () => {
  expect(parseSize('2g')).toBe(2 ** 31)
  expect(() => parseSize('1T')).toThrow('read a size: 1T: not a size; write bytes, 512M or 2G')
})

test('sizes are told as people say them', () => {
  expect([256 << 20, 2 ** 30, 1.55 * 2 ** 30].map(gibibytes)).toEqual(['256 MiB', '1 GiB', '1.5 GiB'])
})
