/** Checkpoints, forks and resets of LinuxGuest against a played machine. fork.lab.test.ts has real guests. */
import { expect, test } from 'vitest'
import type { MachineSpec } from '../native/contract.ts'
import { agentPort, toAgent } from './agent/protocol.ts'
import { checkOptions } from './boot-options.ts'
import { type GuestPlace, LinuxGuest } from './guest.ts'
import { standInHost } from './testing/agent-machine.ts'
import { PlayedMachine } from './testing/played-machine.ts'
import type { Guest } from './types.ts'

const kernel = { name: 'debian:6.12-cloud', release: '6.12', image: '/vmlinuz', hash: '00' }

async function boot(tracked: string[] = []): Promise<{ guest: LinuxGuest; machine: PlayedMachine }> {
  const options = checkOptions(
    { name: 'g', devices: [{ type: 'virtio-console', ports: [{ name: 'p' }, { name: 'q' }] }] },
    standInHost.accelerator,
  )
  const { cpus, memory, cmdline, devices } = options
  const payload = { kind: 'linux', kernel: '/vmlinuz', cmdline } as const
  const spec: MachineSpec = { name: 'g', cpus, memory, payload, devices }
  const place: GuestPlace = {
    host: standInHost,
    track: (one) => void tracked.push(one.name),
    admit: (_need, start) => start(0),
  }
  const guest = new LinuxGuest(options, kernel, place, { spec })
  const machine = new PlayedMachine(spec, (event) => guest.onEvent(event))
  await guest.start(machine)
  return { guest, machine }
}

/** A fork with its machine. */
async function forked(options: Parameters<Guest['fork']>[0] = {}) {
  const { guest, machine } = await boot()
  const fork = await guest.fork(options)
  return { guest, fork, machine: machine.forks[0]! }
}

test('a fork goes on with console, open ports and kernel of its checkpoint, and has a time of its own', async () => {
  const tracked: string[] = []
  const { guest, machine } = await boot(tracked)
  machine.say('serial', '[    0.000000] Linux version\r\n[    1.0')
  machine.tell({ type: 'port', channel: 'p', open: true })
  const lines: string[] = []
  const fork = await guest.fork({ name: 'f', onConsoleLine: (line) => lines.push(line) })
  machine.forks[0]!.say('serial', '00000] more\r\n')
  expect(fork.console.text()).toBe('[    0.000000] Linux version\n[    1.000000] more\n')
  expect(guest.console.text()).toBe('[    0.000000] Linux version\n[    1.0')
  expect(lines).toEqual(['[    1.000000] more'])
  expect([fork.port('p').open, fork.port('q').open]).toEqual([true, false])
  expect(fork).toMatchObject({ name: 'f', kernelRelease: '6.12-played', kernel })
  expect(fork.forkedFrom).toEqual({ name: 'g', bootTime: guest.bootTime })
  expect(guest.forkedFrom).toBeUndefined()
  expect(fork.bootTime).toBeGreaterThan(0)
  expect(tracked).toEqual(['g', 'f'])
  expect(machine.released).toBe(1)
  expect((await fork.exec(['true'])).status).toBe(0)
})

test('a fork is told first of all, with random numbers of its own; the clock jumps only when asked', async () => {
  const { guest, machine } = await boot()
  const checkpoint = await guest.checkpoint()
  const before = BigInt(Date.now()) * 1_000_000n
  const forks = [await checkpoint.fork(), await checkpoint.fork({ clock: 'now' })]
  await forks[0]!.exec(['true'])
  const [first, second] = machine.forks.map(({ frames }) => frames[0]!)
  expect(machine.forks[0]!.frames.map(({ type }) => type)).toEqual([toAgent.FORKED, toAgent.EXEC])
  expect(first!.payload.subarray(0, 64).equals(second!.payload.subarray(0, 64))).toBe(false)
  expect(first!.payload.subarray(64, 80).equals(second!.payload.subarray(64, 80))).toBe(false)
  expect(first!.payload.readBigUInt64LE(80)).toBe(0n)
  expect(second!.payload.readBigUInt64LE(80)).toBeGreaterThanOrEqual(before)
})

test('a splat before the checkpoint is a splat of its forks', async () => {
  const { guest, machine } = await boot()
  machine.say('serial', '[    2.500000] BUG: kernel NULL pointer dereference, address: 0\r\n')
  const fork = await guest.fork()
  expect((await fork.stop()).verdict).toBe('oops')
})

test('a fork that does not answer fails as a boot does, and nothing is left of it', async () => {
  const { guest, machine } = await boot()
  machine.isMute = true
  const error = await guest.fork({ name: 'mute', bootTimeout: 50 }).catch((caught) => caught)
  expect(error.message).toMatch(
    /^fork mute \(debian:6.12-cloud\): boot-fail: no greeting of the agent within 0.05 s/,
  )
  expect(await machine.forks[0]!.ended).toMatchObject({ reason: 'stopped' })
  machine.isMute = false
  expect((await guest.exec(['true'])).status).toBe(0)
})

test('two checkpoints at once: the second is refused', async () => {
  const { guest } = await boot()
  const first = guest.checkpoint()
  await expect(guest.checkpoint()).rejects.toMatchObject({
    code: 'EBUSY',
    message: 'make a checkpoint: g: a checkpoint or a reset is being made; wait for the first one',
  })
  await first
})

test('a checkpoint of an ended guest is refused', async () => {
  const { guest } = await boot()
  await guest.stop()
  await expect(guest.checkpoint()).rejects.toMatchObject({ code: 'EGUEST' })
})

test("a released checkpoint forks no more, and its release is the machine host's once", async () => {
  const { guest, machine } = await boot()
  const checkpoint = await guest.checkpoint()
  await checkpoint.release()
  await checkpoint.release()
  await expect(checkpoint.fork()).rejects.toThrow('fork a guest: its checkpoint was released')
  expect(machine.released).toBe(1)
})

test('a reset takes the conversation, the ports and the console back to the checkpoint', async () => {
  const { guest, machine: parent } = await boot()
  parent.tell({ type: 'port', channel: 'p', open: true })
  const fork = await guest.fork()
  const machine = parent.forks[0]!
  const hanging = fork.exec(['hang']).catch((error) => error)
  machine.say('serial', 'half a li')
  machine.say('p', 'never read')
  machine.tell({ type: 'port', channel: 'p', open: false })
  machine.tell({ type: 'port', channel: 'q', open: true })
  await fork.reset({ clock: 'now' })
  expect(await hanging).toMatchObject({
    code: 'ECANCELED',
    message: 'guest g-fork: it was reset to its checkpoint',
  })
  expect([fork.port('p').open, fork.port('q').open]).toEqual([true, false])
  expect(fork.console.lines()).toEqual(['half a li', '-- kvitest: reset to its checkpoint --'])
  machine.say('p', 'fresh')
  const { value } = await fork.port('p')[Symbol.asyncIterator]().next()
  expect(String(value)).toBe('fresh')
  const told = machine.frames.filter(({ type }) => type === toAgent.FORKED)
  expect(told.map(({ id }) => id)).toEqual([told[0]!.id, told[0]!.id])
  expect(told[1]!.payload.readBigUInt64LE(80)).toBeGreaterThan(0n)
  expect((await fork.exec(['true'])).status).toBe(0)
})

test('a guest that was booted cannot be reset', async () => {
  const { guest } = await boot()
  await expect(guest.reset()).rejects.toMatchObject({ code: 'EINVAL', infra: false })
})

test('what is said of a command of the original does not disturb its fork', async () => {
  const { guest, machine } = await boot()
  const spawned = await guest.spawn(['hang'])
  const fork = await guest.fork()
  const exit = machine.frames.find(({ type }) => type === toAgent.EXEC)!.id
  const frame = Buffer.alloc(12 + 16)
  frame.writeUInt32LE(16, 0)
  frame.writeUInt16LE(105, 4)
  frame.writeUInt32LE(exit, 8)
  machine.forks[0]!.say(agentPort, frame)
  expect((await fork.exec(['true'])).status).toBe(0)
  machine.say(agentPort, frame)
  expect(await spawned.exited).toMatchObject({ status: 0 })
})

test('a fork of a fork knows the guest that was booted', async () => {
  const { guest, fork } = await forked()
  const second = await fork.fork()
  expect(second.name).toBe('g-fork-fork')
  expect(second.forkedFrom?.bootTime).toBe(guest.bootTime)
})
