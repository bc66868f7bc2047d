import { setTimeout as sleep } from 'node:timers/promises'
import { loadAddon } from '../../native/addon.ts'

/** Milliseconds between two readings: an error of 100 ns in each is 2 in a million. */
const span = 100

let measured: Promise<number> | undefined

/** How fast this machine's time-stamp counter counts, in kHz; an emulated CPU's is the same one. */
export function tscKhz(): Promise<number> {
  measured ??= measure()
  return measured
}

async function measure(): Promise<number> {
  const addon = loadAddon()
  const from = addon.readTsc()
  await sleep(span)
  const to = addon.readTsc()
  return Number(((to.ticks - from.ticks) * 1_000_000n) / (to.nanoseconds - from.nanoseconds))
}
