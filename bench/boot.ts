/** From nothing to the first point, and what each further guest costs. One lab, one guest at a time, then four. */
import { parseArgs } from 'node:util'
import { openHost } from '../src/guest/host.ts'
import { printTable, type Row, timed } from './table.ts'

const script = `#!/bin/sh
. /lib/kvitest/tap.sh
pass "alive"
done_testing
`

export async function bench(argv: string[]): Promise<void> {
  const { values } = parseArgs({
    args: argv,
    options: {
      kernel: { type: 'string', multiple: true, default: ['debian:6.12-cloud', 'debian:6.1-cloud'] },
      host: { type: 'string', default: 'lab' },
      runs: { type: 'string', default: '5' },
    },
  })
  process.env.KVITEST_LABS ??= '1'
  const runs = Number(values.runs)
  for (const kernel of values.kernel) {
    const startedAt = performance.now()
    await using host = await openHost(values.host)
    const first: Row = { what: 'nothing to first point (lab included)', values: [], unit: 'ms' }
    const boot: Row = { what: 'create + boot to the agent', values: [], unit: 'ms' }
    const guestBoot: Row = { what: 'of it: machine start to the agent', values: [], unit: 'ms' }
    const exec: Row = { what: 'exec true, round trip', values: [], unit: 'ms' }
    const point: Row = { what: 'run a one-point script', values: [], unit: 'ms' }
    const stop: Row = { what: 'stop', values: [], unit: 'ms' }
    for (let run = 0; run <= runs; run++) {
      const booted = await timed(() => host.boot({ kernel, name: `bench-${run}` }))
      const guest = booted.value
      const ran = await timed(() => guest.run(script))
      if (ran.value.tap.points[0]?.result !== 'pass') throw new Error('the script did not pass')
      if (run === 0) first.values.push(performance.now() - startedAt)
      else {
        boot.values.push(booted.ms)
        guestBoot.values.push(guest.bootTime)
        point.values.push(ran.ms)
        for (let i = 0; i < 5; i++) exec.values.push((await timed(() => guest.exec(['/bin/true']))).ms)
      }
      const stopped = await timed(() => guest.stop())
      if (run > 0) stop.values.push(stopped.ms)
    }
    const four = await timed(async () => {
      const guests = await Promise.all(
        [1, 2, 3, 4].map((n) => host.boot({ kernel, name: `bench-four-${n}` })),
      )
      await Promise.all(guests.map((guest) => guest.stop({ force: true })))
    })
    const atOnce: Row = { what: 'four guests at once, boot to stop', values: [four.ms], unit: 'ms' }
    printTable(`guest ${kernel} on ${host.info.name} (${host.info.accelerator})`, [
      first,
      boot,
      guestBoot,
      point,
      exec,
      stop,
      atOnce,
    ])
  }
}
