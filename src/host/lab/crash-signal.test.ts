import { expect, test } from 'vitest'
import { crashSignal } from './crash-signal.ts'

test.for([
  [134, 'SIGABRT'],
  [139, 'SIGSEGV'],
  [137, undefined],
  [1, undefined],
  [0, undefined],
] as const)('a server that ended with status %d: %s', ([status, signal]) => {
  const console = `[    1.0] Run /init\r\nkvitest lab: the server ended with status ${status}\r\n`
  expect(crashSignal(console)).toBe(signal)
})

test('a lab whose server said nothing at its end', () => {
  expect(crashSignal('[    1.0] Run /init\r\n')).toBeUndefined()
})
