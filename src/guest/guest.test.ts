/** LinuxGuest against the real agent, without a guest around it. guest.lab.test.ts has real guests. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, expect, test } from 'vitest'
import { KvitestError } from '../native/error.ts'
import { checkOptions } from './boot-options.ts'
import { GuestError } from './error.ts'
import { type GuestPlace, LinuxGuest } from './guest.ts'
import { AgentMachine, machineEnd, standInHost } from './testing/agent-machine.ts'
import type { BootOptions } from './types.ts'

const kernel = { name: 'debian:6.12-cloud', release: '6.12', image: '/vmlinuz', hash: '00' }
const machines: AgentMachine[] = []

afterEach(async () => {
  for (const machine of machines.splice(0)) await machine[Symbol.asyncDispose]()
})

function create(options: BootOptions = {}, talks = true): { guest: LinuxGuest; machine: AgentMachine } {
  const checked = checkOptions({ name: 'g', ...options }, standInHost.accelerator)
  const place: GuestPlace = { host: standInHost, track: () => {}, admit: (_need, start) => start(0) }
  const guest = new LinuxGuest(checked, kernel, place, {})
  const machine = new AgentMachine((event) => guest.onEvent(event), talks)
  machines.push(machine)
  return { guest, machine }
}

async function boot(options: BootOptions = {}): Promise<{ guest: LinuxGuest; machine: AgentMachine }> {
  const { guest, machine } = create(options)
  await guest.start(machine)
  return { guest, machine }
}

const ports = (...names: string[]): BootOptions => ({
  devices: [{ type: 'virtio-console', ports: names.map((name) => ({ name })) }],
})

test('exec gives status and both outputs', async () => {
  const { guest } = await boot()
  expect(await guest.exec(['sh', '-c', 'cat; echo err >&2; exit 3'], { stdin: 'in' })).toMatchObject({
    status: 3,
    signal: null,
    timedOut: false,
    stdout: 'in',
    stderr: 'err\n',
  })
})

test('a command that does not read its stdin ends all the same', async () => {
  const { guest } = await boot()
  const result = await guest.exec(['true'], { stdin: Buffer.alloc(1_000_000) })
  expect(result.status).toBe(0)
})

test('a command that is aborted while it is on its way is killed too', async () => {
  const { guest } = await boot()
  const controller = new AbortController()
  const result = guest.exec(['sleep', '60'], { signal: controller.signal })
  controller.abort(new Error('enough'))
  await expect(result).rejects.toThrow('enough')
})

test('an aborted command is killed and rejects with the reason', async () => {
  const { guest } = await boot()
  const result = guest.exec(['sleep', '60'], { signal: AbortSignal.timeout(50) })
  await expect(result).rejects.toMatchObject({ name: 'TimeoutError' })
  expect((await guest.exec(['true'])).status).toBe(0)
})

test('a command that is not there rejects, and the guest lives on', async () => {
  const { guest } = await boot()
  await expect(guest.exec(['no-such-command'])).rejects.toMatchObject({ code: 'ENOENT' })
  expect((await guest.exec(['true'])).status).toBe(0)
})

test('stop asks the agent for power-off and comes with one verdict', async () => {
  const { guest } = await boot()
  const end = await guest.stop()
  expect(end).toMatchObject({ verdict: 'skip', reason: 'no script ran', machine: { reason: 'poweroff' } })
  expect(await guest.stop({ force: true })).toBe(end)
  expect(await guest.ended).toBe(end)
})

test('a forced stop does not ask', async () => {
  const { guest } = await boot()
  expect(await guest.stop({ force: true })).toMatchObject({ machine: { reason: 'stopped' } })
})

test('a guest that does not power off is stopped', async () => {
  const { guest, machine } = await boot()
  machine.agent.child.kill('SIGSTOP')
  const started = performance.now()
  expect(await guest.stop()).toMatchObject({ machine: { reason: 'stopped' } })
  expect(performance.now() - started).toBeGreaterThan(2900)
})

test('leaving the scope of await using stops the guest', async () => {
  const { guest } = await boot()
  {
    await using scoped = guest
    await scoped.exec(['true'])
  }
  expect((await guest.ended).machine).toMatchObject({ reason: 'poweroff' })
})

test('what waits when the guest ends is told how it ended', async () => {
  const { guest, machine } = await boot(ports('p'))
  const pending = [
    guest.exec(['sleep', '60']),
    guest.console.waitFor(/never/),
    guest.port('p').whenOpen(),
  ].map((promise) => promise.catch((error) => error.message))
  await sleep(100)
  machine.say('serial', '[    1.000000] x\r\n')
  machine.end(machineEnd('reset', 'i8042'))
  expect(await Promise.all(pending)).toEqual([
    'exec sleep: fail: the guest reset itself while a script or command ran',
    'console of g: no line matches /never/: the guest has ended (the guest reset itself while a script or command ran)',
    'port p: the guest has ended (the guest reset itself while a script or command ran)',
  ])
})

test('an ended guest refuses every call with a hint', async () => {
  const { guest } = await boot(ports('p'))
  await guest.stop()
  await expect(guest.exec(['true'])).rejects.toThrowErrorMatchingInlineSnapshot(
    `[KvitestError: exec true: skip: no script ran; boot another guest]`,
  )
  await expect(guest.writeFile('/x', '')).rejects.toBeInstanceOf(GuestError)
  await expect(guest.inspect()).rejects.toMatchObject({ code: 'EPIPE' })
  expect(() => guest.port('p').write('x')).toThrow('the guest has ended')
})

test('a panic on the console under a command is its verdict', async () => {
  const { guest, machine } = await boot()
  const running = guest.exec(['sleep', '60']).catch((error) => error)
  await sleep(50)
  machine.say('serial', '[    2.500000] Kernel panic - not syncing: Fatal exception\r\n')
  machine.end(machineEnd('reset', 'i8042'))
  const error = await running
  expect(error).toBeInstanceOf(GuestError)
  expect(error.message).toBe('exec sleep: panic: Kernel panic - not syncing: Fatal exception')
  expect(error.end.verdict).toBe('panic')
  expect(error.console).toContain('Fatal exception')
})

test('a silent command in a live guest is no hang', async () => {
  const { guest } = await boot({ idleLimit: 100 })
  expect((await guest.exec(['sleep', '0.7'])).status).toBe(0)
})

test('a lost host is infra, with its words', async () => {
  const { guest, machine } = await boot()
  const running = guest.exec(['sleep', '60']).catch((error) => error)
  await sleep(50)
  machine.lose(new KvitestError('use a lab', 'it died', { code: 'EINFRA' }))
  const error = await running
  expect(error).toMatchObject({
    infra: true,
    code: 'EINFRA',
    message: 'exec sleep: infra: use a lab: it died',
  })
})

test('an agent that breaks the protocol is infra', async () => {
  const { guest, machine } = await boot()
  machine.say('org.kvitest.agent', 'this is no frame at all')
  expect(await guest.ended).toMatchObject({ verdict: 'infra', machine: { reason: 'stopped' } })
})

test('a guest whose agent is never heard is a boot-fail in time, with its console', async () => {
  const { guest, machine } = create({ bootTimeout: 150 }, false)
  const booting = guest.start(machine).catch((error) => error)
  machine.say('serial', '[    0.100000] still decompressing\r\n')
  const error = await booting
  expect(error).toBeInstanceOf(GuestError)
  expect(error.message).toBe(
    "boot g (debian:6.12-cloud): boot-fail: no greeting of the agent within 0.15 s; vCPU 0 spins at told_by_break+0x1, interrupts on; its console ends: [    0.100000] still decompressing; boot with loglevel 7 to see the kernel's whole log",
  )
  expect(error.end.evidence.join('\n')).toContain('vCPU 0 spins at told_by_break+0x1')
})

test('a guest that ends while it boots is a boot-fail at once', async () => {
  const { guest, machine } = create({}, false)
  const booting = guest.start(machine).catch((error) => error)
  machine.end(machineEnd('triple-fault', 'KVM_EXIT_SHUTDOWN'))
  expect((await booting).message).toBe(
    "boot g (debian:6.12-cloud): boot-fail: the guest triple-faulted before the agent greeted; its console is empty; boot with loglevel 7 to see the kernel's whole log",
  )
})

test('a guest stopped while it boots says so', async () => {
  const { guest, machine } = create({}, false)
  const booting = guest.start(machine).catch((error) => error)
  await guest.stop({ force: true })
  expect((await booting).end).toMatchObject({ verdict: 'skip', reason: 'stopped while it booted' })
})

test('bytes of the console and the agent are acknowledged at once, those of a port when they are read', async () => {
  const { guest, machine } = await boot(ports('p'))
  machine.say('serial', 'abc')
  machine.say('p', 'first')
  machine.say('p', 'second')
  expect(machine.consumedBytes.get('serial')).toBe(3)
  expect(machine.consumedBytes.has('p')).toBe(false)
  const iterator = guest.port('p')[Symbol.asyncIterator]()
  expect(Buffer.from((await iterator.next()).value!).toString()).toBe('first')
  expect(machine.consumedBytes.get('p')).toBe(5)
})

test('the lines of the console can be had from the first one', async () => {
  const lines: string[] = []
  const { guest, machine } = create({ onConsoleLine: (line) => lines.push(line) })
  machine.say('serial', 'Linux version 6.12\r\n')
  await guest.start(machine)
  expect(lines).toEqual(['Linux version 6.12'])
})

test.for([
  ['', 'run script: (empty string): no script; give a path, or text that begins with #!'],
  [
    '#!/bin/sh\r\necho',
    "run script: script: the script has Windows line ends (CR LF); sed -i 's/\\r$//' script",
  ],
])('a script that no guest could run is refused before it is sent: %j', async ([script, message]) => {
  const { guest } = await boot()
  await expect(guest.run(script!)).rejects.toThrow(message!)
})

test('a port that the guest does not have is named with those it has', async () => {
  const { guest } = await boot(ports('a', 'b'))
  expect(() => guest.port('c')).toThrowErrorMatchingInlineSnapshot(
    `[KvitestError: port c: g has no such port (it has: a, b); name it in the ports of a virtio-console device]`,
  )
})
