import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { findSplats } from './splat.ts'

const log = (name: string) => readFileSync(new URL(`./logs/${name}`, import.meta.url), 'utf8')
const found = (text: string) => findSplats(text).map(({ kind, title }) => [kind, title])

test('an ordinary boot and power-off has none', () => {
  expect(findSplats(log('boot-6.1.log'))).toEqual([])
  expect(findSplats(log('boot-6.12.log'))).toEqual([])
})

test('a panic of 6.1 is kept from its first line to the kernel offset', () => {
  const [splat, ...more] = findSplats(log('panic-6.1.log'))
  expect(more).toEqual([])
  expect(splat!.kind).toBe('panic')
  expect(splat!.title).toBe('Kernel panic - not syncing: sysrq triggered crash')
  expect(splat!.text.split('\n')[0]).toMatch(
    /^\[ +\d+\.\d+\] Kernel panic - not syncing: sysrq triggered crash$/,
  )
  expect(splat!.text.split('\n').at(-1)).toMatch(/Kernel Offset: 0x/)
})

test('a panic of 6.12 is found', () => {
  expect(found(log('panic-6.12.log'))).toEqual([
    ['panic', 'Kernel panic - not syncing: sysrq triggered crash'],
  ])
})

test('a NULL dereference with its Oops line is one report, the panic that follows another', () => {
  const splats = findSplats(log('null-deref-6.1.log'))
  expect(splats.map(({ kind, title }) => [kind, title])).toEqual([
    ['oops', 'BUG: kernel NULL pointer dereference, address: 0000000000000000'],
    ['panic', 'Kernel panic - not syncing: Fatal exception'],
  ])
  expect(splats[0]!.text).toContain('Oops: 0002 [#1] PREEMPT SMP NOPTI')
  expect(splats[0]!.text.split('\n').at(-1)).toContain('---[ end trace 0000000000000000 ]---')
  expect(splats[1]!.text).toContain('---[ end Kernel panic - not syncing: Fatal exception ]---')
})

test.for([
  [
    'warning-6.1.log',
    'warning',
    'WARNING: CPU: 1 PID: 412 at drivers/char/virtio_console.c:1406 add_port+0x3d1/0x450 [virtio_console]',
  ],
  [
    'gpf-6.12.log',
    'oops',
    'Oops: general protection fault, probably for non-canonical address 0xdead000000000122: 0000 [#1] PREEMPT SMP NOPTI',
  ],
  ['soft-lockup-6.12.log', 'soft-lockup', 'watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [script:95]'],
  ['rcu-stall-6.12.log', 'rcu-stall', 'rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:'],
  ['hung-task-6.1.log', 'hung-task', 'INFO: task dd:133 blocked for more than 120 seconds.'],
  ['kasan-6.12.log', 'kasan', 'BUG: KASAN: slab-use-after-free in virtqueue_get_buf_ctx+0x1f4/0x310'],
  ['lockdep-6.12.log', 'lockdep', 'WARNING: possible circular locking dependency detected'],
] as const)('%s is one report of kind %s', ([name, kind, title]) => {
  const text = log(name)
  const splats = findSplats(text)
  expect(splats.map((splat) => [splat.kind, splat.title])).toEqual([[kind, title]])
  expect(splats[0]!.text).toContain('</TASK>')
  expect(splats[0]!.text).not.toContain('ordinary line after it')
})

test.for([
  ['BUG: sleeping function called from invalid context at kernel/locking/mutex.c:580', 'bug'],
  ['BUG: scheduling while atomic: swapper/0/0/0x00000002', 'bug'],
  ['BUG: Bad page state in process sh  pfn:0f1a2', 'bug'],
  ['BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!', 'bug'],
  ['kernel BUG at mm/slub.c:379!', 'bug'],
  ['BUG: unable to handle page fault for address: ffffc90000013000', 'oops'],
  ['invalid opcode: 0000 [#1] PREEMPT SMP NOPTI', 'oops'],
  ['Oops: invalid opcode: 0000 [#1] PREEMPT SMP NOPTI', 'oops'],
  ['divide error: 0000 [#1] PREEMPT SMP', 'oops'],
  ['general protection fault, maybe for address 0x0: 0000 [#1] PREEMPT SMP', 'oops'],
  ['WARNING: suspicious RCU usage', 'lockdep'],
  ['WARNING: inconsistent lock state', 'lockdep'],
  ['INFO: trying to register non-static key.', 'lockdep'],
  ['WARNING: kernel/time/hrtimer.c:1234 at hrtimer_forward+0x9/0xb0, CPU#1: swapper/1', 'warning'],
  ['rcu: INFO: rcu_preempt self-detected stall on CPU', 'rcu-stall'],
  [
    'rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-.... } 21 jiffies s: 77 root: 0x2/.',
    'rcu-stall',
  ],
  ['NMI watchdog: Watchdog detected hard LOCKUP on cpu 1', 'hard-lockup'],
  ['UBSAN: array-index-out-of-bounds in drivers/virtio/virtio_ring.c:22:5', 'ubsan'],
  ['irq 11: nobody cared (try booting with the "irqpoll" option)', 'interrupt'],
  ['BUG: KFENCE: out-of-bounds read in foo+0x1/0x2', 'kasan'],
] as const)('%s is a splat of kind %s', ([line, kind]) => {
  expect(found(`[    1.000000] ${line}\n`)).toEqual([[kind, line]])
})

test.for([
  'Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible',
  'traps: foo[123] general protection fault ip:401136 sp:7ffd error:0 in foo[401000+1000]',
  'foo[123]: segfault at 0 ip 0000000000401136 sp 00007ffd error 4 in foo[401000+1000]',
  'MDS CPU bug present and SMT on, data leak possible.',
  'Out of memory: Killed process 123 (hog) total-vm:1000kB',
  'clocksource: timekeeping watchdog on CPU0: Marking clocksource tsc as unstable',
  "acpi PNP0A03:00: fail to add MMCONFIG information, can't access extended configuration space under this bridge",
  'x86/cpu: SGX disabled or unsupported by BIOS.',
  'watchdog: Delayed init of the lockup detector failed',
  'rcu: \tRCU CPU stall detection is on',
  'sched: DEBUG: nothing',
])('%s is no splat', (line) => {
  expect(findSplats(`[    1.000000] ${line}\n`)).toEqual([])
})

test('words of a program on the console are not the words of the kernel', () => {
  const text =
    '[    0.000000] Linux version 6.12\nKernel panic - not syncing: a lie\nBUG: unable to handle a lie\n'
  expect(findSplats(text)).toEqual([])
})

test('a log without time stamps is searched as a whole', () => {
  expect(found('Linux version 6.12\r\nKernel panic - not syncing: VFS\r\n')).toEqual([
    ['panic', 'Kernel panic - not syncing: VFS'],
  ])
})

test('a kernel line behind the unfinished line of a program is seen', () => {
  expect(found('# echo c[    9.870000] Kernel panic - not syncing: x\n')).toHaveLength(1)
})

test('a printk caller id is no part of the message', () => {
  expect(
    found(
      '[    1.000000][  T123] BUG: Bad rss-counter state\n[    1.000001][    C0] WARNING: CPU: 0 PID: 0 at a.c:1 f+0x0/0x1\n',
    )[0],
  ).toEqual(['bug', 'BUG: Bad rss-counter state'])
})

test('two reports with a pause between them are two', () => {
  const report = (time: string) =>
    `[${time}] WARNING: CPU: 0 PID: 1 at a.c:1 f+0x0/0x1\n[${time}] Call Trace:\n`
  expect(findSplats(report('    1.000000') + report('    9.000000'))).toHaveLength(2)
})

test('a report is bounded though the log goes on without a pause', () => {
  const text = Array.from(
    { length: 2000 },
    (_, index) => `[    1.${String(index).padStart(6, '0')}] still talking\n`,
  )
  const [splat] = findSplats(`[    1.000000] BUG: Bad page state\n${text.join('')}`)
  expect(splat!.text.split('\n')).toHaveLength(300)
})

test('what a report says about itself is read from it', () => {
  const [warning] = findSplats(log('warning-6.1.log'))
  expect(warning).toMatchObject({
    function: 'add_port',
    module: 'virtio_console',
    place: 'drivers/char/virtio_console.c:1406',
    cpu: 1,
    pid: 412,
    comm: 'kworker/1:2',
    kernelRelease: '6.1.0-56-cloud-amd64',
    taint: [],
  })
  expect(warning!.trace[0]).toEqual({
    function: 'control_work_handler',
    offset: 0x2d3,
    module: 'virtio_console',
    reliable: true,
    stack: 'TASK',
  })
  const [fault] = findSplats(log('gpf-6.12.log'))
  expect(fault).toMatchObject({ function: 'detach_buf_split', cpu: 0, pid: 95, comm: 'script' })
  expect(fault!.trace.map((frame) => frame.stack)).toEqual(['IRQ', 'IRQ', 'TASK'])
  const [stall] = findSplats(log('rcu-stall-6.12.log'))
  expect(stall!.function).toBe('native_queued_spin_lock_slowpath')
  const [hung] = findSplats(log('hung-task-6.1.log'))
  expect(hung).toMatchObject({ function: '__schedule', taint: [] })
})

test('taint letters and frames that the unwinder did not find', () => {
  const [splat] = findSplats(
    [
      '[    1.000001] WARNING: CPU: 3 PID: 7 at mm/slub.c:12 kfree+0x10/0x20',
      '[    1.000002] CPU: 3 UID: 0 PID: 7 Comm: a b:c Tainted: G        W  OE      6.12.0 #1 Debian',
      '[    1.000003] Call Trace:',
      '[    1.000004]  <TASK>',
      '[    1.000005]  ? show_regs+0x1/0x2',
      '[    1.000006]  caller.part.0+0x1f/0x2 [mod]',
      '[    1.000007]  </TASK>',
    ].join('\n'),
  )
  expect(splat).toMatchObject({ function: 'kfree', comm: 'a b:c', taint: ['W', 'O', 'E'] })
  expect(splat!.trace.map(({ function: name, reliable }) => [name, reliable])).toEqual([
    ['show_regs', false],
    ['caller.part.0', true],
  ])
})

const twoWarnings = [
  ['T1', 'WARNING: CPU: 0 PID: 1 at a.c:1 first+0x0/0x1'],
  ['T2', 'WARNING: CPU: 1 PID: 2 at b.c:2 second+0x0/0x1'],
  ['T2', 'RIP: 0010:second+0x0/0x1'],
  ['T1', 'RIP: 0010:first+0x0/0x1'],
  ['T1', 'Call Trace:'],
  ['T2', 'Call Trace:'],
  ['T2', ' of_second+0x1/0x2'],
  ['T1', ' of_first+0x1/0x2'],
  ['T2', '---[ end trace 0000000000000000 ]---'],
  ['T3', 'an ordinary line of a third'],
  ['T1', '---[ end trace 0000000000000000 ]---'],
  ['T1', 'an ordinary line after it'],
] as const

test('reports of two CPUs whose lines interleave are two, each whole', () => {
  const splats = findSplats(twoWarnings.map(([, text]) => `[    1.000000] ${text}`).join('\n'))
  expect(splats.map(({ title }) => title)).toEqual([twoWarnings[0][1], twoWarnings[1][1]])
  for (const [index, name] of ['first', 'second'].entries()) {
    expect(splats[index]!.text).toContain(`RIP: 0010:${name}`)
    expect(splats[index]!.text).toContain(`of_${name}`)
    expect(splats[index]!.text).not.toContain('after it')
  }
})

test('where the kernel says who printed a line, interleaved reports are taken apart', () => {
  const lines = twoWarnings.map(([caller, text]) => `[    1.000000][ ${caller.padStart(5)}] ${text}`)
  const splats = findSplats(lines.join('\n'))
  expect(splats.map((splat) => [splat.function, splat.trace.map((frame) => frame.function)])).toEqual([
    ['first', ['of_first']],
    ['second', ['of_second']],
  ])
  expect(splats[0]!.text).not.toMatch(/second|third|after it/)
})

test('the back traces that a report asks other CPUs for belong to it', () => {
  const [splat, ...more] = findSplats(
    [
      '[    1.000000][    C1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:',
      '[    1.000001][    C1] Sending NMI from CPU 1 to CPUs 0:',
      '[    1.000002][    C0] NMI backtrace for cpu 0',
      '[    1.000003][    C0] RIP: 0010:spinning+0x1/0x2',
    ].join('\n'),
  )
  expect(more).toEqual([])
  expect(splat!.function).toBe('spinning')
})

/** Milliseconds, the best of three. */
/** Milliseconds of this process's own CPU time, the least of several runs: what else runs here does not count. */
function timed(text: string): number {
  const runs = Array.from({ length: 5 }, () => {
    const before = process.cpuUsage()
    findSplats(text)
    const { user, system } = process.cpuUsage(before)
    return (user + system) / 1000
  })
  return Math.min(...runs)
}

test.for([
  ['ordinary lines', '[    1.000000] an ordinary line of the kernel that has some length to it\n'],
  ['titles', '[    1.000000] BUG: Bad page state in process sh  pfn:0f1a2\n'],
  [
    'titles of many callers',
    '[    1.000000][  T123] BUG: Bad rss-counter state\n[    1.000000][  T124] word\n',
  ],
])('a log of %s takes time in proportion', ([, line]) => {
  // Warm, and then eight times as much: quadratic growth would show as 64.
  timed(line!.repeat(1000))
  expect(timed(line!.repeat(16_000)) / timed(line!.repeat(2000))).toBeLessThan(32)
})
