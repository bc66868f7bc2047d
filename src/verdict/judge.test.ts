import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import {
  type GuestEvidence,
  judge,
  type MachineEvidence,
  type ScriptEvidence,
  type TapEvidence,
} from './judge.ts'

const log = (name: string) => readFileSync(new URL(`./logs/${name}`, import.meta.url), 'utf8')
const boot = log('boot-6.12.log')

const machine = (reason: string, detail: string = reason, panicked = false): MachineEvidence => ({
  reason,
  detail,
  panicked,
})
const point = (name: string, result: TapEvidence['points'][0]['result'] = 'pass') => ({
  name,
  path: [],
  result,
})

function script(
  change: Partial<Omit<ScriptEvidence, 'tap'>> & { tap?: Partial<TapEvidence> } = {},
): ScriptEvidence {
  const tap = { points: [point('a'), point('b')], plan: 2, problems: [], ...change.tap }
  return { name: 'x.tap.sh', status: 0, signal: null, timedOut: false, ...change, tap }
}

/** A guest that ran one good script and was then asked to power off. */
function good(change: Partial<GuestEvidence> = {}): GuestEvidence {
  return {
    phase: 'shutdown',
    stopped: true,
    machine: machine('poweroff', 'ACPI S5'),
    console: boot,
    handshake: true,
    scripts: [script()],
    ...change,
  }
}

const short = (evidence: GuestEvidence) => {
  const { verdict, reason } = judge(evidence)
  return `${verdict}: ${reason}`
}

test('a met plan, no failed point, status 0 and an orderly end pass', () => {
  expect(judge(good())).toEqual({ verdict: 'pass', reason: '2 points ok', evidence: [] })
})

test('what the agent could not set up is evidence, and no verdict', () => {
  expect(judge(good({ warnings: ['module /lib/x.ko: ENOENT'] }))).toEqual({
    verdict: 'pass',
    reason: '2 points ok',
    evidence: ['agent: module /lib/x.ko: ENOENT'],
  })
})

test('a guest that its user stopped by force after the script passes', () => {
  expect(short(good({ machine: machine('stopped', 'stop() was called') }))).toBe('pass: 2 points ok')
})

test('several scripts pass together', () => {
  expect(short(good({ scripts: [script(), script()] }))).toBe('pass: 4 points ok')
})

test('points still to do and points that pass though to do are no failure', () => {
  const tap = { points: [point('a', 'todo'), point('b', 'todo-pass')] }
  expect(short(good({ scripts: [script({ tap })] }))).toBe('pass: 2 points ok')
})

describe('a splat that is allowed', () => {
  const warning = 'WARNING: CPU: 0 PID: 1 at drivers/virtio/virtio.c:1 f+0x0/0x1'
  const other = 'BUG: scheduling while atomic: sh/1/0x2'
  const allowance = {
    ...{ pattern: '^WARNING: .* at drivers/virtio/', source: 'x.expect.yaml:3', reason: 'noise' },
    ...{ link: 'https://example.org/1', expires: '2027-01-31', isExpired: false },
  }
  const seen = (titles: string[], change: Partial<GuestEvidence> = {}) =>
    good({
      console: `${boot}\n${titles.map((title, at) => `[   1${at}.000000] ${title}`).join('\n')}\n`,
      allowances: [allowance],
      ...change,
    })

  test('makes no oops, and is told', () => {
    expect(judge(seen([warning]))).toEqual({
      verdict: 'pass',
      reason: '2 points ok',
      evidence: [`allowed: ${warning} (until 2027-01-31, x.expect.yaml:3: noise, https://example.org/1)`],
      allowed: [{ title: warning, by: allowance }],
    })
  })

  test('hides no other one, and no failure of the script', () => {
    expect(short(seen([warning, other]))).toBe(`oops: ${other}`)
    const scripts = [script({ status: 3 })]
    expect(short(seen([warning], { scripts }))).toBe('fail: x.tap.sh: exit status 3 though no point failed')
  })

  test('counts again when its allowance has expired', () => {
    const allowances = [{ ...allowance, isExpired: true }]
    expect(short(seen([warning], { allowances }))).toBe(
      `oops: ${warning}; allowed until 2027-01-31 by x.expect.yaml:3: noise, https://example.org/1`,
    )
  })

  test('is never a panic', () => {
    const allowances = [{ ...allowance, pattern: '.' }]
    expect(short(seen(['Kernel panic - not syncing: x'], { allowances }))).toMatch(/^panic: /)
  })
})

describe('a script fails its guest', () => {
  test.for<[string, Parameters<typeof script>[0], string]>([
    [
      'a failed point',
      { status: 1, tap: { points: [point('a'), point('b', 'fail')] } },
      '1 of 2 points failed: b',
    ],
    [
      'a failed point though it exits 0',
      { tap: { points: [point('a', 'fail'), { name: 'c', path: ['p'], result: 'fail' }] } },
      '2 of 2 points failed: a, p > c',
    ],
    ['a non-zero exit with all points ok', { status: 3 }, 'exit status 3 though no point failed'],
    ['a signal', { status: null, signal: 'SIGSEGV' }, 'killed by SIGSEGV'],
    ['no plan', { tap: { plan: undefined } }, 'no plan'],
    ['no points', { tap: { points: [], plan: 0 } }, 'no points'],
    ['a plan not met', { tap: { plan: 3 } }, 'planned 3 points, saw 2'],
    [
      'a broken stream',
      { tap: { problems: ['point 1 came more than once'] } },
      'point 1 came more than once',
    ],
    ['a bail-out', { status: 255, tap: { bailOut: 'no device' } }, 'bail out: no device'],
    [
      'a skip of all that exits 1',
      { status: 1, tap: { points: [], plan: 0, skipAll: 'x' } },
      'exit status 1 though no point failed',
    ],
  ])('%s', ([, change, reason]) => {
    expect(short(good({ scripts: [script(), script(change)] }))).toBe(`fail: x.tap.sh: ${reason}`)
  })
})

test('a script over its time is a timeout, also when points failed', () => {
  const late = script({
    status: null,
    signal: 'SIGKILL',
    timedOut: true,
    tap: { points: [point('a', 'fail')] },
  })
  expect(short(good({ scripts: [late] }))).toBe('timeout: x.tap.sh was over its time and was killed')
})

test('a script that skips itself skips its guest, with its reason', () => {
  const tap = { points: [], plan: 0, skipAll: 'no such device' }
  expect(short(good({ scripts: [script({ tap })] }))).toBe('skip: no such device')
})

test('nothing but skipped points is a skip', () => {
  const tap = { points: [point('a', 'skip')], plan: 1 }
  expect(short(good({ scripts: [script({ tap })] }))).toBe('skip: every point was skipped')
})

test('one script that ran makes a pass of a guest whose other script skipped', () => {
  const tap = { points: [], plan: 0, skipAll: 'no such device' }
  expect(short(good({ scripts: [script({ tap }), script()] }))).toBe('pass: 2 points ok')
})

test('without a script nothing passes', () => {
  expect(short(good({ scripts: [] }))).toBe('skip: no script ran')
})

test('a splat makes an oops of what the script called ok, with the report as evidence', () => {
  const { verdict, reason, evidence } = judge(good({ console: boot + log('warning-6.1.log') }))
  expect(verdict).toBe('oops')
  expect(reason).toMatch(/^WARNING: CPU: 1 PID: 412 at /)
  expect(evidence).toHaveLength(1)
  expect(evidence[0]).toContain('</TASK>')
})

test('a splat outranks a time-out and a failed point', () => {
  const late = script({ status: null, timedOut: true, tap: { points: [point('a', 'fail')] } })
  expect(judge(good({ console: log('soft-lockup-6.12.log'), scripts: [late] })).verdict).toBe('oops')
})

describe('a panic outranks everything', () => {
  const console = boot + log('panic-6.12.log')
  const reason = 'panic: Kernel panic - not syncing: sysrq triggered crash'

  test.for<[string, Partial<GuestEvidence>]>([
    ['a script that said ok', {}],
    ['a reset in the middle of a script', { phase: 'script', stopped: false, machine: machine('reset') }],
    ['a boot', { phase: 'boot', handshake: false, scripts: [] }],
    ['a hang', { hang: { milliseconds: 1 } }],
    ['a fault of our own', { failure: 'the lab died' }],
  ])('%s', ([, change]) => {
    expect(short(good({ console, ...change }))).toBe(reason)
  })

  test('told by pvpanic alone', () => {
    expect(short(good({ machine: machine('poweroff', 'ACPI S5', true) }))).toBe(
      'panic: the guest rang pvpanic',
    )
  })

  test('a script that only prints the words is believed to have printed words', () => {
    expect(short(good({ console: `${boot}\nKernel panic - not syncing: a lie\n` }))).toBe('pass: 2 points ok')
  })
})

test('an end in the middle of a script fails with how it ended', () => {
  const cut = { phase: 'script', stopped: false, scripts: [] } as const
  const during = 'while a script or command ran'
  expect(short(good({ ...cut, machine: machine('poweroff') }))).toBe(`fail: the guest powered off ${during}`)
  expect(short(good({ ...cut, machine: machine('reset') }))).toBe(`fail: the guest reset itself ${during}`)
  expect(short(good({ ...cut, machine: machine('test-exit') }))).toBe(
    `fail: the guest wrote the test-exit port ${during}`,
  )
  expect(short(good({ ...cut, stopped: true, machine: machine('stopped') }))).toBe(
    `fail: it was stopped ${during}`,
  )
})

test('an end that nobody asked for fails though the scripts passed', () => {
  expect(short(good({ phase: 'idle', stopped: false }))).toBe(
    'fail: the guest powered off though nobody asked it to end',
  )
})

test('a triple fault in the middle of a script fails, as nothing says that the kernel panicked', () => {
  const end = machine('triple-fault', 'KVM_EXIT_SHUTDOWN on vCPU 0')
  const evidence = good({ phase: 'script', stopped: false, machine: end, scripts: [] })
  expect(short(evidence)).toBe('fail: the guest triple-faulted while a script or command ran')
  expect(judge(evidence).evidence[0]).toBe('machine: KVM_EXIT_SHUTDOWN on vCPU 0')
})

test('an end that is no power-off fails a guest that was asked for one', () => {
  expect(short(good({ machine: machine('triple-fault') }))).toBe(
    'fail: the guest triple-faulted when it was asked to power off',
  )
  expect(short(good({ machine: machine('reset') }))).toBe(
    'fail: the guest reset itself when it was asked to power off',
  )
})

describe('boot', () => {
  const booting = { phase: 'boot', stopped: false, handshake: false, scripts: [] } as const

  test('no greeting in time is a boot-fail with the end of the console', () => {
    const evidence = good({ ...booting, bootTimeout: { milliseconds: 60_000 }, machine: machine('stopped') })
    expect(short(evidence)).toMatch(
      /^boot-fail: no greeting of the agent within 60 s; its console ends: \[ +\d/,
    )
    expect(judge(evidence).evidence.length).toBeGreaterThan(10)
  })

  test('a silent guest says so', () => {
    const evidence = good({ ...booting, console: '', machine: machine('triple-fault', 'KVM_EXIT_SHUTDOWN') })
    expect(short(evidence)).toBe(
      'boot-fail: the guest triple-faulted before the agent greeted; its console is empty',
    )
  })

  test("the agent's own last words are the reason", () => {
    const console = '[    1.0] x\nkvitest-agent: no port org.kvitest.agent\n'
    expect(short(good({ ...booting, console }))).toBe(
      'boot-fail: the guest powered off before the agent greeted; its console ends: kvitest-agent: no port org.kvitest.agent',
    )
  })

  test('a guest stopped by its user while it booted is no failure of the guest', () => {
    expect(short(good({ ...booting, stopped: true }))).toBe('skip: stopped while it booted')
  })
})

test('a hang tells for how long and what each vCPU did', () => {
  const vcpus = [
    { index: 0, registers: { rip: '0xffffffff81000000' }, mpState: 'runnable', interruptsEnabled: false },
  ]
  const evidence = good({
    phase: 'script',
    stopped: false,
    hang: { milliseconds: 40_000 },
    vcpus,
    scripts: [],
  })
  expect(short(evidence)).toBe(
    'hang: no progress for 40 s while a script or command ran; vCPU 0 runnable at rip 0xffffffff81000000, interrupts off',
  )
})

test.for(['vmm-error', 'internal-error', 'fail-entry'])(
  '%s is a crash of the VMM, not of the guest',
  (reason) => {
    expect(short(good({ phase: 'script', machine: machine(reason, 'KVM said so') }))).toBe(
      'vmm-crash: KVM said so',
    )
  },
)

test('so is the end of its process by a signal of its own doing, also during boot', () => {
  const crash = 'lab:x#1: the process of its VMM was ended by SIGABRT'
  const lost = { machine: undefined, crash, stopped: false }
  expect(short(good({ ...lost, phase: 'script' }))).toBe(`vmm-crash: ${crash}`)
  expect(short(good({ ...lost, phase: 'boot', handshake: false }))).toBe(`vmm-crash: ${crash}`)
})

test('a fault of our own is infra, also during boot', () => {
  const lost = { machine: undefined, failure: 'the lab died', stopped: false }
  expect(short(good({ ...lost, phase: 'script' }))).toBe('infra: the lab died')
  expect(short(good({ ...lost, phase: 'boot', handshake: false }))).toBe('infra: the lab died')
})

test('the reason is always one line', () => {
  const verdicts = [good(), good({ console: log('kasan-6.12.log') }), good({ handshake: false })].map(judge)
  expect(verdicts.every(({ reason }) => !reason.includes('\n'))).toBe(true)
})

describe('a guest that said nothing any more', () => {
  const vcpu = (change: object = {}) => ({
    index: 0,
    registers: { rip: '0xffffffffc02070a1' },
    mpState: 'runnable',
    interruptsEnabled: false,
    ...change,
  })
  const hung = (change: Partial<GuestEvidence>) =>
    good({ hang: { milliseconds: 20_000 }, stopped: false, scripts: [], ...change })

  test.for<[Partial<GuestEvidence>, string]>([
    [
      { phase: 'script', vcpus: [vcpu({ doing: 'spins', at: 'provoke_spin+0x11 [provoke]' })] },
      'no progress for 20 s while a script or command ran; vCPU 0 spins at provoke_spin+0x11 [provoke], interrupts off',
    ],
    [
      { phase: 'script', vcpus: [vcpu({ doing: 'halted', mpState: 'halted', interruptsEnabled: true })] },
      'no progress for 20 s while a script or command ran; vCPU 0 halted at rip 0xffffffffc02070a1, interrupts on',
    ],
    [
      { phase: 'idle', vcpus: [vcpu({ doing: 'runs', cpl: 3, registers: { rip: '0x400000' } })] },
      'no progress for 20 s between scripts; vCPU 0 runs at rip 0x400000 (a user program), interrupts off',
    ],
    [{ phase: 'boot', handshake: false }, 'no progress for 20 s during boot'],
    [{ phase: 'shutdown', stopped: true }, 'no power-off for 20 s after it was asked for'],
  ])('%j', ([change, reason]) => {
    expect(short(hung(change))).toBe(`hang: ${reason}`)
  })

  test('what its diagnosis found is evidence', () => {
    const findings = ['asked the kernel (x): no answer']
    const { evidence } = judge(hung({ phase: 'script', vcpus: [vcpu({ pending: [236] })], findings }))
    expect(evidence).toContain('asked the kernel (x): no answer')
    expect(evidence.join('\n')).toContain('interrupts off, vectors 236 wait: rip=')
  })

  test('a boot out of time that was diagnosed says where it was', () => {
    const change = {
      phase: 'boot',
      handshake: false,
      hang: undefined,
      bootTimeout: { milliseconds: 1000 },
    } as const
    expect(short(hung({ ...change, console: 'x', vcpus: [vcpu({ doing: 'spins', at: 'f+0x1' })] }))).toBe(
      'boot-fail: no greeting of the agent within 1 s; vCPU 0 spins at f+0x1, interrupts off; its console ends: x',
    )
  })
})

test('a guest that did not power off and was stopped is a failure', () => {
  const stayed = good({ stayed: true, machine: machine('stopped', 'stop() was called') })
  expect(short(stayed)).toBe('fail: the guest did not power off when it was asked to')
})

describe("the lines of a splat that only the kernel's own log has", () => {
  const title = '[   12.000000] INFO: task sh:81 blocked for more than 1 seconds.\n'
  const dmesg = `${title}[   12.000001] task:sh state:D\n[   12.000002] Call Trace:\n[   12.000003]  <TASK>\n[   12.000004]  provoke_hung_task+0x1/0x2\n[   12.000005]  </TASK>\n`

  test('are taken from there', () => {
    const { verdict, evidence } = judge(good({ console: title, dmesg }))
    expect(verdict).toBe('oops')
    expect(evidence[0]).toContain('provoke_hung_task')
  })

  test('are not what decides: the console does', () => {
    expect(short(good({ dmesg }))).toBe('pass: 2 points ok')
  })

  test('a log that lost the beginning takes nothing away', () => {
    const { evidence } = judge(good({ console: dmesg, dmesg: title }))
    expect(evidence[0]).toContain('provoke_hung_task')
  })
})
