/** A whole profile of KVM's ABI, both of its rounds: of this machine and of a lab that runs already. */
import { parseArgs } from 'node:util'
import { dumpProfile } from '../src/abi/profile/dump.ts'
import { type HostChoice, openMachineHost } from '../src/host/index.ts'
import { printTable, type Row, timed } from './table.ts'

export async function bench(argv: string[]): Promise<void> {
  const { values } = parseArgs({
    args: argv,
    options: {
      host: { type: 'string', multiple: true, default: ['local', 'lab:debian:6.12-cloud'] },
      runs: { type: 'string', default: '3' },
    },
  })
  const rows: Row[] = []
  for (const name of values.host) {
    const row: Row = { what: `profile of ${name}`, values: [], unit: 'ms' }
    await using host = await openMachineHost(name as HostChoice)
    // The first one starts what is missing.
    for (let run = 0; run <= Number(values.runs); run++) {
      const { ms } = await timed(() => dumpProfile(host))
      if (run > 0) row.values.push(ms)
    }
    rows.push(row)
  }
  printTable('profile', rows)
}
