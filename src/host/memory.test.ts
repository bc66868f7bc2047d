import { expect, test } from 'vitest'
import { memoryAvailable, parseSize } from './memory.ts'

test.for([
  ['1073741824', 2 ** 30],
  ['64K', 65536],
  ['512M', 2 ** 29],
  ['2g', 2 ** 31],
] as const)('%s is %d bytes', ([text, bytes]) => {
  expect(parseSize(text)).toBe(bytes)
})

test.for(['', 'M', '1.5G', '-1', '1T', '1 G'])('"%s" is no size', (text) => {
  expect(() => parseSize(text)).toThrow('not a size; write bytes, 512M or 2G')
})

test('the machine has memory', async () => {
  expect(await memoryAvailable()).toBeGreaterThan(2 ** 20)
})
