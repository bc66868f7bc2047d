import { expect, test } from 'vitest'
import { placesIn, standsStill } from './diagnosis.ts'
import { vcpuState } from './testing/agent-machine.ts'

test('each CPU is where the kernel says, as 6.12 says it of two', () => {
  const lines = `[    8.1] sysrq: Show backtrace of all active CPUs
[    8.2] NMI backtrace for cpu 1
[    8.2] CPU: 1 UID: 0 PID: 120 Comm: script Tainted: G           OE      6.12.117 #1  Debian
[    8.3] Call Trace:
[    8.3] RIP: 0010:provoke_soft_lockup+0x36/0x70 [provoke]
[    8.4] RIP: 0033:0x47b7a0
[    8.5] Sending NMI from CPU 1 to CPUs 0:
[    8.6] NMI backtrace for cpu 0
[    8.7] RIP: 0010:pv_native_safe_halt+0xb/0x10
[    8.8] RIP: 0010:not_the_first+0x1/0x2`.split('\n')
  expect(Object.fromEntries(placesIn(lines))).toEqual({
    0: 'pv_native_safe_halt+0xb',
    1: 'provoke_soft_lockup+0x36 [provoke]',
  })
})

test.for<[string, string[], string | undefined, boolean]>([
  ['a loop of a few bytes', ['0x1000', '0x1010'], undefined, true],
  ['a loop that is left now and then', ['0x1000', '0x1000', '0x9000'], undefined, false],
  ['code that gets on', ['0x1000', '0x2000', '0x3000'], undefined, false],
  ['a halt, wherever', ['0x1000', '0x9000'], 'halted', true],
])('%s stands still: %j', async ([, places, mpState, still]) => {
  let look = 0
  const inspect = async () => [
    vcpuState({ rip: places[look++ % places.length]! }, mpState === undefined ? {} : { mpState }),
  ]
  expect(await standsStill({ inspect } as never)).toBe(still)
})

test('one vCPU that gets on is enough; a machine that cannot be looked at says nothing', async () => {
  let rip = 0
  const inspect = async () => {
    rip += 0x1000
    return [vcpuState({ rip: '0x1000' }), vcpuState({ rip: `0x${rip.toString(16)}` }, { index: 1 })]
  }
  expect(await standsStill({ inspect } as never)).toBe(false)
  expect(await standsStill({ inspect: () => Promise.reject(new Error('no')) } as never)).toBe(false)
})
