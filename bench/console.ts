/**
 * The serial console of one guest at 1, 10 and 100 MB, with splats in it: MB a second that are taken and split into
 * lines, the time until its verdict, and the memory that is kept. `npm run bench -- console`.
 */
import { SerialLog } from '../src/guest/console-log.ts'
import { judge } from '../src/verdict/judge.ts'
import { printTable, type Row } from './table.ts'

const splat = `[    1.000001] WARNING: CPU: 0 PID: 7 at provoke.c:12 provoke_warn+0x12/0x20 [provoke]
[    1.000002] Call Trace:
[    1.000003]  <TASK>
[    1.000004]  provoke_set+0x10/0x20 [provoke]
[    1.000005]  </TASK>
[    1.000006] ---[ end trace 0000000000000000 ]---
`

/** As the native machine delivers it: some KiB at a time. */
const chunk = Buffer.from(
  '[    0.500000] virtio_blk virtio1: [vda] 131072 512-byte logical blocks\r\n'.repeat(56),
)

function rows(megabytes: number): Row[] {
  globalThis.gc?.()
  const before = process.memoryUsage().rss
  const log = new SerialLog('bench')
  const bytes = megabytes * 1e6
  const started = performance.now()
  let lines = 0
  log.onLine(() => lines++)
  for (let sent = 0; sent < bytes; sent += chunk.length) {
    log.push(chunk)
    if (Math.floor(sent / (bytes / 5)) !== Math.floor((sent + chunk.length) / (bytes / 5))) {
      log.push(Buffer.from(splat))
    }
  }
  const taken = performance.now()
  const { verdict, reason } = judge({
    phase: 'shutdown',
    stopped: true,
    console: log.text(),
    handshake: true,
    scripts: [],
    machine: { reason: 'poweroff', detail: 'powered off', panicked: false },
  })
  const judged = performance.now()
  if (verdict !== 'oops' || !reason.includes('and 4 more')) throw new Error(`${verdict}: ${reason}`)
  const held = (process.memoryUsage().rss - before) / 2 ** 20
  return [
    {
      what: `${megabytes} MB, ${lines} lines: taken`,
      values: [bytes / 1e6 / ((taken - started) / 1000)],
      unit: 'MB/s',
    },
    { what: '  verdict after', values: [judged - taken], unit: 'ms' },
    { what: '  memory grown by', values: [held], unit: 'MiB' },
  ]
}

export async function bench(): Promise<void> {
  printTable('console', [1, 10, 100].flatMap(rows))
}
