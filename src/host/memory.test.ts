import { expect, test } from 'vitest'
import { memoryAvailable, parseSize } from './memory.ts'

test('a size is read, and what is none is refused', () => {
  expect(parseSize('2g')).toBe(2 ** 31)
  expect(() => parseSize('1T')).toThrow('read a size: 1T: not a size; write bytes, 512M or 2G')
})

test('the machine has memory', async () => {
  expect(await memoryAvailable()).toBeGreaterThan(2 ** 20)
})
