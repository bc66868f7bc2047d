/** How guests end that say nothing any more. The agent is the real one, as a process; the machine is a stand-in. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, describe, expect, test } from 'vitest'
import { checkOptions } from './boot-options.ts'
import { type GuestPlace, LinuxGuest } from './guest.ts'
import { SymbolTable } from './symbols.ts'
import { AgentMachine, machineEnd, standInHost, vcpuState } from './testing/agent-machine.ts'
import type { BootOptions } from './types.ts'

const kernel = { name: 'debian:6.12-cloud', release: '6.12.0', image: '/vmlinuz', hash: 'abc' }
const machines: AgentMachine[] = []

afterEach(async () => {
  for (const machine of machines.splice(0)) await machine[Symbol.asyncDispose]()
})

function create(options: BootOptions = {}, kallsyms?: string) {
  const checked = checkOptions({ name: 'g', ...options }, standInHost.accelerator)
  const symbols = kallsyms === undefined ? {} : { symbols: async () => SymbolTable.parse(kallsyms) }
  const place: GuestPlace = {
    host: standInHost,
    track: () => {},
    admit: (_need, start) => start(0),
    ...symbols,
  }
  const guest = new LinuxGuest(checked, kernel, place, {})
  const machine = new AgentMachine((event) => guest.onEvent(event))
  machines.push(machine)
  return { guest, machine }
}

async function boot(options: BootOptions = {}, kallsyms?: string) {
  const { guest, machine } = create(options, kallsyms)
  await guest.start(machine)
  return { guest, machine }
}

async function hang(options: BootOptions, change: (machine: AgentMachine) => void, kallsyms?: string) {
  const { guest, machine } = await boot(options, kallsyms)
  const running = guest.exec(['sleep', '60']).catch((error) => error)
  await sleep(50)
  change(machine)
  machine.agent.child.kill('SIGSTOP')
  return { error: await running, guest, machine }
}

const deaf = { interruptsEnabled: false }
const limit = { idleLimit: { script: 150 } }

describe('a guest that is silent and does not answer is a hang', () => {
  test('one that takes interrupts is asked by a break, and its answer is no splat', async () => {
    const { error, guest, machine } = await hang(limit, () => {})
    expect(error.message).toMatch(
      /^exec sleep: hang: no progress for 0\.\d+ s while a script or command ran; vCPU 0 spins at told_by_break\+0x1, interrupts on$/,
    )
    const evidence = error.end.evidence.join('\n')
    expect(evidence).toContain("asked the kernel (a break and 'l' on its console")
    expect(evidence).toContain('WARNING: CPU: 0 PID: 1 at x.c:1 f')
    expect(machine.nmis).toEqual([])
    expect(machine.written.map(([channel, data]) => `${channel} ${Buffer.from(data)}`)).toEqual([
      'serial l',
      'serial w',
    ])
    expect(guest.console.text()).toMatch(/-- kvitest asks the kernel: .*\n.*sysrq: [^-]*-- kvitest asked no/)
  })

  test('one whose interrupts are off is asked by an NMI; the panic that follows is ours', async () => {
    const { error, machine } = await hang(limit, (one) => {
      one.vcpus = [vcpuState({ rip: '0x1000' }), vcpuState({ rip: '0x1000' }, { index: 1, ...deaf })]
    })
    expect(error.end).toMatchObject({
      verdict: 'hang',
      reason: expect.stringMatching(/vCPU 1 spins at told_by_break\+0x1|vCPU 1 spins at rip 0x1000/),
    })
    // vCPU 0 takes interrupts: a break is heard, and its NMI reaches the other one.
    expect(machine.nmis).toEqual([])
  })

  test('when no vCPU takes interrupts, only an NMI is tried, at the first of them', async () => {
    const { error, machine } = await hang(limit, (one) => {
      one.vcpus = [vcpuState({ rip: '0x1000' }, { ...deaf, pending: [236] })]
    })
    expect(error.end).toMatchObject({
      verdict: 'hang',
      reason: expect.stringMatching(/; vCPU 0 spins at told_by_nmi\+0x1 \[x\], interrupts off$/),
      machine: { reason: 'reset' },
    })
    expect(error.end.evidence.join('\n')).toContain('interrupts off, vectors 236 wait: rip=0x1000')
    expect(machine.nmis).toEqual([{ vcpu: 0, ioCheck: true }])
    expect(machine.breaks).toBe(0)
  })

  test('names come from the kernel of its sibling, whatever the kernel says', async () => {
    const kallsyms = 'ffffffff81000000 T _text\nffffffffc0207090 t provoke_spin\t[provoke]\n'
    const { error } = await hang(
      limit,
      (one) => {
        one.vcpus = [vcpuState({ rip: '0xffffffffc02070a1' }, deaf)]
      },
      kallsyms,
    )
    expect(error.end.reason).toMatch(/vCPU 0 spins at provoke_spin\+0x11 \[provoke\], interrupts off$/)
  })

  test('a user program and a vCPU that gets on are called so', async () => {
    let rip = 0x40_0000
    const { error } = await hang(limit, (one) => {
      one.inspect = async () => {
        rip += 0x1000
        return [vcpuState({ rip: `0x${rip.toString(16)}` }, { cpl: 3 })]
      }
    })
    expect(error.end.reason).toMatch(/vCPU 0 runs at rip 0x[0-9a-f]+ \(a user program\), interrupts on$/)
  })

  test('a spin is one though interrupts were seen now and then', async () => {
    let looks = 0
    const { error } = await hang(limit, (one) => {
      one.inspect = async () => [vcpuState({ rip: ++looks % 3 === 0 ? '0x9000' : '0x1004' }, deaf)]
    })
    expect(error.end.reason).toMatch(/vCPU 0 spins at told_by_nmi/)
    expect(error.end.evidence.join('\n')).toContain('rip=0x1004')
  })

  test('a machine that cannot be looked at, and answers nothing, is a hang all the same', async () => {
    const { error } = await hang(limit, (one) => {
      one.inspect = () => Promise.reject(new Error('no'))
      one.nmi = () => Promise.reject(new Error('no'))
      one.end = (
        (end) => (all: Parameters<typeof end>[0]) =>
          void setTimeout(() => end.call(one, all), 10)
      )(one.end)
    })
    expect(error.end).toMatchObject({ verdict: 'hang' })
  })

  test('so is a command over its time', async () => {
    const { guest, machine } = await boot({ idleLimit: 0 })
    const started = Promise.withResolvers<void>()
    const running = guest
      .exec(['sh', '-c', 'echo started; sleep 60'], { timeout: 1000, onStdout: () => started.resolve() })
      .catch((error) => error)
    await started.promise
    machine.agent.child.kill('SIGSTOP')
    expect((await running).end.verdict).toBe('hang')
  })

  test('a user who stops it meanwhile gets the same verdict', async () => {
    const { guest, machine } = await boot(limit)
    machine.agent.child.kill('SIGSTOP')
    await guest.console.waitFor(/kvitest asks the kernel/, 10_000)
    expect(await guest.stop({ force: true })).toMatchObject({
      verdict: 'hang',
      reason: expect.stringMatching(/^no progress for \d.* s between scripts; vCPU 0 spins/),
    })
  })
})

describe('a guest that does not power off', () => {
  test('is a hang at the end, and no pass', async () => {
    const { guest, machine } = await boot({ idleLimit: { shutdown: 200 } })
    expect(await guest.run('#!/bin/sh\necho 1..1\necho ok 1\n')).toMatchObject({ status: 0 })
    machine.agent.child.kill('SIGSTOP')
    expect(await guest.stop()).toMatchObject({
      verdict: 'hang',
      reason: expect.stringMatching(/^no power-off for 0\.2 s after it was asked for; vCPU 0 spins at /),
    })
  })

  test('without a limit it is stopped, and fails', async () => {
    const { guest, machine } = await boot({ idleLimit: 0 })
    expect(await guest.run('#!/bin/sh\necho 1..1\necho ok 1\n')).toMatchObject({ status: 0 })
    machine.agent.child.kill('SIGSTOP')
    expect(await guest.stop()).toMatchObject({
      verdict: 'fail',
      reason: 'the guest did not power off when it was asked to',
    })
  })

  test('by force it is no fault of the guest', async () => {
    const { guest, machine } = await boot()
    expect(await guest.run('#!/bin/sh\necho 1..1\necho ok 1\n')).toMatchObject({ status: 0 })
    machine.agent.child.kill('SIGSTOP')
    expect(await guest.stop({ force: true })).toMatchObject({ verdict: 'pass' })
  })
})

describe('a boot that says nothing', () => {
  const silent = { idleLimit: { boot: 150 }, bootTimeout: 60_000 }

  test('is a hang when its vCPUs stand still', async () => {
    const { guest, machine } = create(silent)
    machine.start = async () => {}
    const error = await guest.start(machine).catch((caught) => caught)
    expect(error.end).toMatchObject({
      verdict: 'hang',
      reason: expect.stringMatching(/^no progress for \d+\.\d+ s during boot; vCPU 0 spins at /),
    })
  })

  test('is none while they get on', async () => {
    const { guest, machine } = create(silent)
    const start = machine.start.bind(machine)
    let rip = 0x1000
    let looks = 0
    machine.inspect = async () => {
      // It gets on for three looks of the watch, and then greets.
      if (++looks === 18) void start()
      rip += 0x1000
      return [vcpuState({ rip: `0x${rip.toString(16)}` })]
    }
    machine.start = async () => {}
    await guest.start(machine)
    expect(looks).toBeGreaterThanOrEqual(18)
    expect(await guest.stop({ force: true })).toMatchObject({ verdict: 'skip' })
  })
})

test('a greeting that comes while a boot out of time is diagnosed comes too late', async () => {
  const { guest, machine } = create({ bootTimeout: 100 })
  const start = machine.start.bind(machine)
  machine.start = async () => {}
  const booting = guest.start(machine).catch((caught) => caught)
  await guest.console.waitFor(/kvitest asks the kernel/)
  await start()
  expect((await booting).end).toMatchObject({
    verdict: 'boot-fail',
    reason: expect.stringMatching(/^no greeting of the agent within 0\.1 s/),
  })
})

test('the log of a guest that failed is fetched while it still answers', async () => {
  const { guest } = await boot()
  await guest.run('#!/bin/sh\necho 1..1\necho not ok 1\nexit 1\n')
  expect(await guest.stop()).toMatchObject({ verdict: 'fail' })
  // The agent is a process of this machine, whose log it may be able to read.
  expect(guest.record().agent).toMatch(/> EXEC \d+, \d+ bytes .*dmesg/)
})

test('the log of a guest that passed is not', async () => {
  const { guest } = await boot()
  await guest.run('#!/bin/sh\necho 1..1\necho ok 1\n')
  expect(await guest.stop()).toMatchObject({ verdict: 'pass' })
  expect(guest.record().agent).not.toContain('dmesg')
})

test('a record has the console with its times, what the agent was told, and the output of scripts', async () => {
  const { guest, machine } = await boot()
  machine.say('serial', '[    0.100000] first\r\n')
  await guest.run('#!/bin/sh\necho 1..1\necho ok 1\necho trouble >&2\n')
  const record = guest.record()
  expect(record.console).toMatch(/^ +\d+ {2}\[ {4}0\.100000\] first\n$/)
  expect(record.agent).toMatch(/< HELLO 0, [\s\S]*> FILE 1, [\s\S]*> EXEC 2, .*\/run\/kvitest\/1\/script/)
  expect(record.scripts).toEqual([{ name: 'script', stdout: '1..1\nok 1\n', stderr: 'trouble\n' }])
  machine.end(machineEnd('poweroff', 'ACPI S5'))
  await guest.ended
})
