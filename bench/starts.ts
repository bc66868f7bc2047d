/** Lives of forks a second in one lab and in two, by how many guests may start at the same time. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openHost } from '../src/guest/host.ts'
import { printTable, type Row, timed } from './table.ts'

const runs = 4

export async function bench([mode]: string[]): Promise<void> {
  if (mode === 'here') return measure()
  for (const labs of ['1', '2']) {
    for (const starts of ['1', '2', '8']) {
      const place = mkdtempSync(join(tmpdir(), 'kvitest-starts-'))
      // A budget and labs of its own, as a process has them.
      const env = {
        ...process.env,
        XDG_RUNTIME_DIR: place,
        KVITEST_LABS: labs,
        KVITEST_BUDGET_CPUS: '16',
        KVITEST_BUDGET_STARTS: starts,
      }
      spawnSync(process.execPath, [...process.argv.slice(1, 3), 'here'], { env, stdio: 'inherit' })
      rmSync(place, { recursive: true, force: true })
    }
  }
}

async function measure(): Promise<void> {
  const { KVITEST_LABS: labs, KVITEST_BUDGET_STARTS: starts } = process.env
  await using host = await openHost()
  const life = async () => {
    const guest = await host.fork({ kernel: 'debian:6.12-cloud' })
    await guest.exec(['true'])
    await guest.stop({ force: true })
  }
  const livesOf = (count: number) => Promise.all(Array.from({ length: count }, life))
  // Labs run and have the checkpoint.
  await livesOf(8)
  const rows: Row[] = []
  for (const count of [1, 4, 8]) {
    const row: Row = { what: `lives a second, ${count} asked for at once`, values: [], unit: '1/s' }
    for (let run = 0; run < runs; run++)
      row.values.push((1000 * count) / (await timed(() => livesOf(count))).ms)
    rows.push(row)
  }
  printTable(`KVITEST_LABS=${labs} KVITEST_BUDGET_STARTS=${starts}`, rows)
}
