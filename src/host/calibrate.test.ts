import { existsSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { KvitestError } from '../native/error.ts'
import { canRunLinux, measure } from './calibrate.ts'
import { decide, findLocal } from './choose.ts'
import { openMachineHost } from './index.ts'
import { LocalHost } from './local.ts'

test('a ring 0 at hardware speed runs Linux, an emulated one does not, and the reason has the figures', () => {
  expect(canRunLinux({ ring0: 3e9, ring3: 3e9, exit: 1 })).toEqual({
    yes: true,
    reason: 'ring 0 runs at 3.00e+3 million instructions a second',
  })
  expect(canRunLinux({ ring0: 1.42e6, ring3: 3e9, exit: 10 })).toMatchObject({
    yes: false,
    reason: expect.stringContaining('ring 0 is emulated: 1.42 million'),
  })
})

test('without /dev/kvm every guest goes to a lab, and the reason says why', () => {
  const local = { error: new KvitestError('open /dev/kvm', 'no such file', { code: 'ENOENT' }) }
  for (const guests of ['linux', 'bare'] as const) {
    expect(decide(guests, local)).toEqual({
      host: 'lab:debian:6.12-cloud',
      reason: 'no usable /dev/kvm on this machine (open /dev/kvm: no such file)',
    })
  }
})

test('a host that is none is refused', async () => {
  await expect(openMachineHost('cloud' as 'auto')).rejects.toMatchObject({
    code: 'EINVAL',
    message:
      'open the host: cloud: no such host; use auto, local, lab or lab:KERNEL such as lab:debian:6.1-cloud',
  })
})

describe.skipIf(!existsSync('/dev/kvm'))('with a /dev/kvm (skipped where the machine has none)', () => {
  test('both rings and the exit are measured', async () => {
    await using host = await LocalHost.open()

    const { ring0, ring3, exit } = await measure(host)

    expect(ring0).toBeGreaterThan(1e4)
    expect(ring3).toBeGreaterThan(1e7)
    expect(exit).toBeGreaterThan(0.1)
    expect(exit).toBeLessThan(10_000)
  })

  test('bare guests stay local', async () => {
    const local = await findLocal()
    expect(decide('bare', local).host).toBe('local')
    await local.host?.close()
  })
})
