import { expect, test } from 'vitest'
import { loadAddon } from '../../native/addon.ts'
import { tscKhz } from './tsc.ts'

test('the speed of the time-stamp counter predicts it', async () => {
  const { readTsc } = loadAddon()
  const khz = await tscKhz()
  const from = readTsc()
  await new Promise((settle) => setTimeout(settle, 50))
  const to = readTsc()
  const expected = (Number(to.nanoseconds - from.nanoseconds) / 1e6) * khz
  // A thousandth: what Linux itself takes for the same clock.
  expect(Math.abs(Number(to.ticks - from.ticks) / expected - 1)).toBeLessThan(0.001)
})
