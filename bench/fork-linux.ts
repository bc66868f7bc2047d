/** Boot, fork and reset of Linux guests, each to the first output of a script; one lab where there is no other host. */
import { openHost } from '../src/guest/host.ts'
import type { Guest } from '../src/guest/types.ts'
import { printTable, type Row, timed } from './table.ts'

const kernels = ['debian:6.12-cloud', 'debian:6.1-cloud']
const boots = 3
const runs = 20
const idle = 16

/** Until the first point of a script is here. */
async function firstOutput(guest: Guest): Promise<void> {
  const { tap } = await guest.run('#!/bin/sh\necho 1..1\necho ok 1\n')
  if (tap.points[0]?.result !== 'pass') throw new Error('the script did not pass')
}

export async function benchLinux(): Promise<void> {
  process.env.KVITEST_LABS ??= '1'
  for (const kernel of kernels) {
    await using host = await openHost()
    const boot: Row = { what: 'boot + first output', values: [], unit: 'ms' }
    const fork: Row = { what: 'fork + first output', values: [], unit: 'ms' }
    const forkOnly: Row = { what: 'of it: fork to the answer of the agent', values: [], unit: 'ms' }
    const reset: Row = { what: 'reset + first output', values: [], unit: 'ms' }
    const resetOnly: Row = { what: 'of it: reset to the answer of the agent', values: [], unit: 'ms' }
    const memory: Row = { what: 'private memory of an idle 256 MiB fork', values: [], unit: 'KiB' }
    const rates: Row[] = []
    // The checkpoint is made, and everything was used once.
    await firstOutput(await host.fork({ kernel }))
    for (let run = 0; run < boots; run++) {
      const { ms, value } = await timed(async () => {
        const guest = await host.boot({ kernel })
        await firstOutput(guest)
        return guest
      })
      boot.values.push(ms)
      await value.stop({ force: true })
    }
    for (let run = 0; run < runs; run++) {
      const forked = await timed(() => host.fork({ kernel }))
      const guest = forked.value
      forkOnly.values.push(forked.ms)
      fork.values.push(forked.ms + (await timed(() => firstOutput(guest))).ms)
      const wasReset = await timed(() => guest.reset())
      resetOnly.values.push(wasReset.ms)
      reset.values.push(wasReset.ms + (await timed(() => firstOutput(guest))).ms)
      await guest.stop({ force: true })
    }
    for (const atOnce of [1, 2, 4]) {
      const life = async () => await (await host.fork({ kernel })).stop({ force: true })
      const rate: Row = {
        what: `forks a second, ${atOnce} at once, stopped at once`,
        values: [],
        unit: '1/s',
      }
      for (let run = 0; run < 5; run++) {
        const { ms } = await timed(() => Promise.all(Array.from({ length: atOnce }, life)))
        rate.values.push((1000 * atOnce) / ms)
      }
      rates.push(rate)
    }
    const guests = await Promise.all(Array.from({ length: idle }, () => host.fork({ kernel })))
    for (const guest of guests) memory.values.push((await guest.privateMemory()) / 1024)
    await Promise.all(guests.map((guest) => guest.stop({ force: true })))
    const { name, accelerator } = host.info
    printTable(`${kernel} on ${name} (${accelerator}), 1 CPU, 256 MiB`, [
      boot,
      fork,
      forkOnly,
      reset,
      resetOnly,
      ...rates,
      memory,
    ])
  }
}
