/** One real guest for each way in which a kernel can end badly, and what we make of it. Rows of docs/verdicts.md. */

import { type Host, openHost } from 'kvitest'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { endOf, provocations, provoke } from './provocations.ts'

let host: Host

beforeAll(async () => {
  host = await openHost()
})

afterAll(async () => {
  await host?.close()
})

describe.for(['debian:6.12-cloud', 'debian:6.1-cloud'])('on %s', (kernel) => {
  test.for(provocations)('$name: $verdict', async ({ script, verdict, reason, evidence, cpus = 1 }) => {
    const guest = await host.fork({ kernel, cpus, modules: [provoke], idleLimit: 5000 })
    const end = await endOf(guest, script)
    expect(end).toMatchObject({ verdict, reason: expect.stringMatching(reason) })
    if (evidence) expect(end.evidence.join('\n')).toMatch(evidence)
    // A sibling told the names, not only the kernel itself.
    expect(end.evidence.join('\n')).not.toContain('no names for addresses')
  })

  test('an init that never does anything: hang while it boots', async () => {
    const error = await host
      .boot({ kernel, cmdline: 'rdinit=/bin/busybox -- sleep 1000', idleLimit: { boot: 5000 } })
      .catch((caught) => caught)
    expect(error.end).toMatchObject({
      verdict: 'hang',
      reason: expect.stringMatching(
        /^no progress for .* s during boot; vCPU 0 halted at \w+\+0x\w+, interrupts on$/,
      ),
    })
  })

  test('nothing bad: pass', async () => {
    const guest = await host.fork({ kernel, modules: [provoke], idleLimit: 5000 })
    expect(await endOf(guest, 'true')).toMatchObject({ verdict: 'pass' })
  })
})
