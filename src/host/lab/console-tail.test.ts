import { expect, test } from 'vitest'
import { ConsoleTail } from './console-tail.ts'

test('only the end is kept', () => {
  const tail = new ConsoleTail(10)
  for (let i = 0; i < 1000; i++) tail.write(Buffer.from(`line ${i}\n`))
  expect(tail.text()).toBe('\nline 999\n')
})

test('the summary is one line of the last words, without escapes', () => {
  const tail = new ConsoleTail()
  tail.write(
    Buffer.from('\x1bc\x1b[?7l\x1b[2J[    0.1] first\r\n\r\n[    0.2] \x1b[31mKernel panic\x1b[0m\r\n'),
  )
  expect(tail.summary()).toBe('its console ends: [    0.1] first | [    0.2] Kernel panic')
})

test('a console that said nothing is said to', () => {
  expect(new ConsoleTail().summary()).toBe('its console is empty')
})
