import { expect, test } from 'vitest'
import { parseIdleLimit } from './boot-flags.ts'

test.for([
  ['30', 30_000],
  ['0', 0],
  ['boot=60,shutdown=0.5', { boot: 60_000, shutdown: 500 }],
] as const)('--idle-limit %s', ([text, limit]) => {
  expect(parseIdleLimit('kvitest run', text)).toEqual(limit)
})

test.for(['', 'soon', '-1', 'boot', 'boot=x', 'bot=3', 'boot=1,'])('--idle-limit %j is refused', (text) => {
  expect(() => parseIdleLimit('kvitest run', text)).toThrow(
    `kvitest run: --idle-limit ${text}; give seconds, or such as boot=60,script=20,shutdown=0`,
  )
})
