import { expect, test } from 'vitest'
import { findSplats } from '../verdict/splat.ts'
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

const report = [
  '[    1.000001] WARNING: CPU: 0 PID: 7 at provoke.c:12 provoke_warn+0x12/0x20 [provoke]',
  '[    1.000002] Modules linked in: provoke',
  '[    1.000003] CPU: 0 PID: 7 Comm: sh Tainted: G           O       6.1.0 #1',
  '[    1.000004] Call Trace:',
  '[    1.000005]  <TASK>',
  '[    1.000006]  provoke_set+0x10/0x20 [provoke]',
  '[    1.000007]  </TASK>',
  '[    1.000008] ---[ end trace 0000000000000000 ]---',
]
const chatter = (lines: number) => '[    0.500000] nothing of interest, and much of it\r\n'.repeat(lines)

test.for([0, 10, 45, 50, 55, 90, 100])(
  'no splat hides behind output, wherever it stands: after %d %',
  (percent) => {
    const serial = new SerialLog('g', 64 * 1024)
    const lines = 10_000
    const text =
      chatter((lines * percent) / 100) +
      `${report.join('\r\n')}\r\n` +
      chatter((lines * (100 - percent)) / 100)
    for (let at = 0; at < text.length; at += 1000) serial.push(Buffer.from(text.slice(at, at + 1000)))

    const splats = findSplats(serial.text())

    expect(serial.text()).toContain('bytes left out')
    expect(serial.text().length).toBeLessThan(100 * 1024)
    expect(splats).toEqual([expect.objectContaining({ kind: 'warning', text: report.join('\n') })])
  },
)

test('reports without end are kept within bounds', () => {
  const serial = new SerialLog('g', 64 * 1024)
  for (let i = 0; i < 2000; i++) serial.push(Buffer.from(`${report.join('\n')}\n${'x'.repeat(60_000)}\n`))

  expect(serial.text().length).toBeLessThan(5 * 1024 * 1024)
  expect(findSplats(serial.text()).length).toBeGreaterThan(0)
})
