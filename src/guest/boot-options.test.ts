import { expect, test } from 'vitest'
import { checkOptions } from './boot-options.ts'
import type { BootOptions } from './types.ts'

test('every option has a default', () => {
  expect(checkOptions({ name: 'g' }, 'native')).toEqual({
    name: 'g',
    allowedSplats: [],
    cpus: 1,
    memory: 256 * 1024 * 1024,
    devices: [{ type: 'virtio-console', ports: [{ name: 'org.kvitest.agent' }] }],
    ports: [],
    cmdline:
      'console=ttyS0 loglevel=7 printk.time=1 panic=-1 sysrq_always_enabled sysctl.kernel.panic_on_io_nmi=1',
    bootTimeout: 60_000,
    idleLimits: { boot: 20_000, script: 20_000, shutdown: 20_000 },
    core: false,
    onConsoleLine: undefined,
  })
})

test('a guest of a host that emulates has five minutes for its boot, unless it says its own', () => {
  expect(checkOptions({}, 'tcg').bootTimeout).toBe(300_000)
  expect(checkOptions({ bootTimeout: 1000 }, 'tcg').bootTimeout).toBe(1000)
})

test('the agent has a device of its own, and waits for the other named ports', () => {
  const console = {
    type: 'virtio-console',
    ports: [{ name: 'a' }, { name: 'hvc', console: true }, { name: 'b' }],
  } as const
  const devices = [{ type: 'virtio-rng' } as const, { ...console, ports: [...console.ports] }]
  const checked = checkOptions({ devices, cmdline: 'quiet' }, 'native')
  expect(checked.devices.map(({ type }) => type)).toEqual(['virtio-console', 'virtio-rng', 'virtio-console'])
  expect(checked.ports).toEqual(['a', 'hvc', 'b'])
  expect(checked.cmdline).toMatch(/\.panic_on_io_nmi=1 kvitest.ports=a,b quiet$/)
})

const console = (...names: string[]): BootOptions => ({
  devices: [{ type: 'virtio-console', ports: names.map((name) => ({ name })) }],
})

test.for<[BootOptions, string]>([
  [{ cpus: 0 }, 'boot g: cpus: 0; give a whole number from 1 to 8'],
  [{ cpus: 9 }, 'boot g: cpus: 9; give a whole number from 1 to 8'],
  [{ cpus: 1.5 }, 'boot g: cpus: 1.5; give a whole number from 1 to 8'],
  [{ memory: 'lots' }, 'boot g: memory: lots; give bytes, or a size such as 256M or 2G'],
  [{ memory: '67108865' }, 'boot g: memory: 67108865; give bytes, or a size such as 256M or 2G'],
  [{ memory: '16M' }, 'boot g: memory: 16M; a Linux guest takes 64M to 8G'],
  [{ memory: '9G' }, 'boot g: memory: 9G; a Linux guest takes 64M to 8G'],
  [{ bootTimeout: 0 }, 'boot g: bootTimeout: 0; give milliseconds'],
  [{ loglevel: 16 }, 'boot g: loglevel: 16; give a whole number from 0 to 15'],
  [{ idleLimit: -1 }, 'boot g: idleLimit: -1; give milliseconds, or 0 for none'],
  [{ idleLimit: { boot: -5 } }, 'boot g: idleLimit.boot: -5; give milliseconds, or 0 for none'],
  [
    { idleLimit: { bot: 5 } as never },
    'boot g: idleLimit.bot: known are boot, script, shutdown; give milliseconds, or 0 for none',
  ],
  [{ cmdline: 'x'.repeat(2048) }, 'boot g: a command line of 2149 characters; the kernel takes 2047'],
  [{ cmdline: 'a\nb' }, 'boot g: a command line with a line end in it; write it on one line'],
  [console('a', 'a'), 'boot g: port a is there already; give every port a name of its own'],
  [
    console('org.kvitest.agent'),
    'boot g: port org.kvitest.agent is there already; give every port a name of its own',
  ],
  [console('serial'), 'boot g: port serial is there already; give every port a name of its own'],
  [console(''), 'boot g: port name ""; name every port'],
])('%j is refused', ([options, message]) => {
  expect(() => checkOptions({ name: 'g', ...options }, 'native')).toThrow(message)
})

test.for([
  ['native', {}, 7],
  ['nested', {}, 7],
  ['tcg', {}, 5],
  ['software', {}, 5],
  ['tcg', { loglevel: 8 }, 8],
] as const)('on a host with %s and %j the console shows level %i', ([accelerator, options, level]) => {
  expect(checkOptions(options, accelerator).cmdline).toContain(`loglevel=${level} `)
})

test.for([
  [0, { boot: 0, script: 0, shutdown: 0 }],
  [{ shutdown: 5 }, { boot: 20_000, script: 20_000, shutdown: 5 }],
  [
    { boot: undefined, script: 1 },
    { boot: 20_000, script: 1, shutdown: 20_000 },
  ],
] as const)('idle limit %j', ([idleLimit, limits]) => {
  expect(checkOptions({ name: 'g', idleLimit } as never, 'native').idleLimits).toEqual(limits)
})
