/** Three of the ways in which a guest ends badly, on one kernel; verdicts.long.test.ts has them all, on two. */

import { type Host, openHost } from 'kvitest'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { endOf, provocations, provoke } from './provocations.ts'

const decisive = ['panic()', 'hung task', 'a vCPU spins with interrupts off']

let host: Host

beforeAll(async () => {
  host = await openHost()
})

afterAll(async () => {
  await host?.close()
})

test.for(provocations.filter(({ name }) => decisive.includes(name)))(
  '$name: $verdict',
  async ({ script, verdict, reason, evidence }) => {
    const guest = await host.fork({ modules: [provoke], idleLimit: 4000 })
    const end = await endOf(guest, script)
    expect(end).toMatchObject({ verdict, reason: expect.stringMatching(reason) })
    if (evidence) expect(end.evidence.join('\n')).toMatch(evidence)
    // A sibling told the names, not only the kernel itself.
    expect(end.evidence.join('\n')).not.toContain('no names for addresses')
  },
)

test('nothing bad: pass', async () => {
  const guest = await host.fork({ modules: [provoke], idleLimit: 4000 })
  expect(await endOf(guest, 'true')).toMatchObject({ verdict: 'pass' })
})
