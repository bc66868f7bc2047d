import { expect, test } from 'vitest'
import { ByteReader } from './byte-reader.ts'

async function* chunks(...texts: string[]): AsyncGenerator<Uint8Array> {
  for (const text of texts) yield new TextEncoder().encode(text)
}

test('lines come whole however they were cut', async () => {
  const reader = new ByteReader(chunks('ab', 'c\nd', '\r\n\nrest'))
  expect([await reader.line(), await reader.line(), await reader.line(), await reader.line()]).toEqual([
    'abc',
    'd',
    '',
    undefined,
  ])
})

test('bytes after a line are not lost', async () => {
  const reader = new ByteReader(chunks('4\nda', 'ta5\n'))
  const seen: number[] = []
  expect(await reader.line()).toBe('4')
  expect(await reader.each(4, (bytes) => seen.push(...bytes))).toBe(true)
  expect(String.fromCharCode(...seen)).toBe('data')
  expect(await reader.line()).toBe('5')
})

test('a stream that ends early says so', async () => {
  const reader = new ByteReader(chunks('abc'))
  expect(await reader.each(4, () => {})).toBe(false)
})

test('no chunk is taken before it is asked for', async () => {
  let taken = 0
  async function* counted() {
    for (;;) {
      taken++
      yield new Uint8Array([0x0a])
    }
  }
  const reader = new ByteReader(counted())
  await reader.line()
  expect(taken).toBe(1)
})
