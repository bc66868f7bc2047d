/**
 * A process that takes leases, for client.test.ts: reads `ask NAME CPUS`, `end NAME` and `exit` from its standard input,
 * and prints `serves`, `has NAME`, `waits NAME TEXT`. At the end of its input it is left to its own end.
 */
import { createInterface } from 'node:readline'
import { BudgetClient, type Lease } from '../client.ts'
import { MeetingPlace } from '../meeting-place.ts'

const [directory = '', run = ''] = process.argv.slice(2)
const place = new MeetingPlace(directory)
const client = new BudgetClient({ place, run, limits: { cpus: 2, memory: 2 ** 30 } })
const leases = new Map<string, Lease>()

async function ask(guest: string, cpus: number): Promise<void> {
  const lease = await client.lease({ guest, cpus, memory: 2 ** 20, holder: { id: guest } })
  leases.set(guest, lease)
  lease.started()
  console.log(`has ${guest}`)
}

for await (const line of createInterface({ input: process.stdin })) {
  const [command, guest = '', cpus = '1'] = line.split(' ')
  if (command === 'ask') void ask(guest, Number(cpus))
  if (command === 'serve') console.log((await place.serve()) ? 'serves' : 'does not serve')
  if (command === 'end') leases.get(guest)?.end()
  if (command === 'exit') process.exit(0)
}
