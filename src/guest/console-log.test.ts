import { expect, test } from 'vitest'
import { BoundedBytes } from './bounded-bytes.ts'
import { SerialLog } from './console-log.ts'

function log(...chunks: string[]): SerialLog {
  const serial = new SerialLog('g')
  for (const chunk of chunks) serial.push(Buffer.from(chunk))
  return serial
}

test('lines are told once they end, without CR, whatever the chunks', () => {
  const serial = new SerialLog('g')
  const lines: string[] = []
  serial.onLine((line) => lines.push(line))
  for (const chunk of ['one\r', '\ntw', 'o\r\nthr', 'ee']) serial.push(Buffer.from(chunk))
  expect(lines).toEqual(['one', 'two'])
  serial.end('over')
  expect(lines).toEqual(['one', 'two', 'three'])
  expect(serial.text()).toBe('one\ntwo\nthree')
  expect(serial.lines()).toEqual(['one', 'two', 'three'])
})

test('a character cut by a chunk is whole in its line', () => {
  const serial = new SerialLog('g')
  const lines: string[] = []
  serial.onLine((line) => lines.push(line))
  for (const byte of Buffer.from('é€\n')) serial.push(Buffer.from([byte]))
  expect(lines).toEqual(['é€'])
})

test('a line that never ends is told in parts', () => {
  const serial = new SerialLog('g')
  const lines: string[] = []
  serial.onLine((line) => lines.push(line))
  for (let i = 0; i < 40; i++) serial.push(Buffer.alloc(8 * 1024, 'x'))
  expect(lines.length).toBeGreaterThan(3)
  expect(Math.max(...lines.map((line) => line.length))).toBeLessThan(80 * 1024)
})

test('waitFor sees what was said before and what comes', async () => {
  const serial = log('early bird\n')
  expect(await serial.waitFor(/early/g)).toBe('early bird')
  const later = serial.waitFor(/late/)
  serial.push(Buffer.from('too late\r\n'))
  expect(await later).toBe('too late')
})

test('waitFor gives up in time, and at the end', async () => {
  const serial = log('x\n')
  await expect(serial.waitFor(/never/, 20)).rejects.toThrow(
    'console of g: no line matches /never/: not within 20 ms',
  )
  const pending = serial.waitFor(/never/)
  serial.end('powered off')
  await expect(pending).rejects.toThrow('the guest has ended (powered off)')
  await expect(serial.waitFor(/never/)).rejects.toMatchObject({ code: 'ENODATA' })
})

test('a listener can leave', () => {
  const serial = new SerialLog('g')
  const lines: string[] = []
  const leave = serial.onLine((line) => lines.push(line))
  serial.push(Buffer.from('a\n'))
  leave()
  serial.push(Buffer.from('b\n'))
  expect(lines).toEqual(['a'])
})

test('bytes within the limit are all kept, in order', () => {
  const bytes = new BoundedBytes(100)
  for (let i = 0; i < 10; i++) bytes.push(Buffer.from(`${i}`.repeat(10)))
  expect(bytes.toString()).toBe(Array.from({ length: 10 }, (_, i) => `${i}`.repeat(10)).join(''))
})

test('beyond the limit head and tail are kept and the gap is named', () => {
  const bytes = new BoundedBytes(20)
  for (let i = 0; i < 100; i++) bytes.push(Buffer.from(String(i).padStart(5, '0')))
  expect(bytes.toString()).toBe('0000000001\n[... 480 bytes left out ...]\n0009800099')
})

test('many small chunks beyond the limit stay quick', () => {
  const fill = (chunks: number): number => {
    const bytes = new BoundedBytes(64 * 1024)
    const started = performance.now()
    for (let i = 0; i < chunks; i++) bytes.push(Buffer.from('ab'))
    const elapsed = performance.now() - started
    expect(bytes.toString().length).toBeLessThan(80 * 1024)
    return elapsed
  }
  fill(10_000)
  // Eight times as much: quadratic growth would show as 64.
  expect(fill(1_600_000) / fill(200_000)).toBeLessThan(32)
})

test('what is pushed may be overwritten afterwards', () => {
  const bytes = new BoundedBytes(100)
  const chunk = Buffer.from('kept')
  bytes.push(chunk)
  chunk.fill('x')
  expect(bytes.toString()).toBe('kept')
})
