import { allowanceFor, describeEntry, type SplatAllowance } from './expectations.ts'
import { findSplats, type Splat } from './splat.ts'
import { type Judgement, noScript, type Verdict } from './types.ts'

/** The end of a machine, as native/contract.ts tells it. */
export interface MachineEvidence {
  reason: string
  /** One line a person can read. */
  detail: string
  /** pvpanic was rung. */
  panicked: boolean
}

/** What a vCPU was doing. */
export interface VcpuEvidence {
  index: number
  registers: Record<string, string>
  mpState?: string
  interruptsEnabled: boolean
  /** 3: it ran a user's code. */
  cpl?: number
  /** Interrupt vectors that wait to be taken. */
  pending?: readonly number[]
  /** Of several looks: it halts, spins in one place, or gets on. */
  doing?: 'halted' | 'spins' | 'runs'
  /** The function, as the kernel names it: `provoke_spin+0x11 [provoke]`. */
  at?: string
}

export interface TapEvidence {
  points: { name: string; path: string[]; result: 'pass' | 'fail' | 'skip' | 'todo' | 'todo-pass' }[]
  plan: number | undefined
  skipAll?: string
  bailOut?: string
  problems: string[]
}

/** A script that ran to an end of its own or of its time-out. */
export interface ScriptEvidence {
  name: string
  status: number | null
  signal: string | null
  timedOut: boolean
  tap: TapEvidence
}

export interface GuestEvidence {
  /**
   * Where the guest was when it ended: `boot` before the agent's greeting, `script` while a script or command ran,
   * `idle` between them, `shutdown` after its user asked for the end while nothing ran.
   */
  phase: 'boot' | 'script' | 'idle' | 'shutdown'
  /** Its user called stop(). */
  stopped: boolean
  /** It was asked to power off, did not, and has no limit after which that is a hang. */
  stayed?: boolean
  /** Absent when no end was reported: the host itself was lost. */
  machine?: MachineEvidence | undefined
  /** Everything the serial console showed. */
  console: string
  /** The agent greeted. */
  handshake: boolean
  scripts: readonly ScriptEvidence[]
  /** The agent did not greet in time. */
  bootTimeout?: { milliseconds: number } | undefined
  /** Nothing moved on any channel, and the agent did not answer. */
  hang?: { milliseconds: number } | undefined
  /** What the agent could not set up, one line each. */
  warnings?: readonly string[] | undefined
  /** Sampled before a hung guest was stopped. */
  vcpus?: readonly VcpuEvidence[] | undefined
  /** What a diagnosis brought to light, an entry each. */
  findings?: readonly string[] | undefined
  /** The kernel's whole log, of a guest that could be asked for it: the console may lack what is below its level. */
  dmesg?: string | undefined
  /** The process of the VMM was ended by a signal of its own doing, and the guest with it. One line. */
  crash?: string | undefined
  /** Our own fault: a lost lab, a broken protocol. One line. */
  failure?: string | undefined
  /** Splats that are known here and make no `oops`; a panic is never one of them. */
  allowances?: readonly SplatAllowance[] | undefined
}

const consoleTail = 20

/** How a guest may end that was asked to; `stopped` is our own doing. */
const orderly = ['poweroff', 'stopped']

/**
 * Exactly one verdict for one guest. A pure function of what was seen. From strong to weak: panic, vmm-crash,
 * infra, boot-fail, hang, oops, timeout, fail, skip, pass.
 */
export function judge(evidence: GuestEvidence): Judgement {
  const { standing: splats, allowed } = sortSplats(wholeSplats(evidence), evidence.allowances)
  const judgement =
    panic(evidence, splats) ??
    vmmCrash(evidence) ??
    infra(evidence) ??
    bootFail(evidence) ??
    hang(evidence) ??
    oops(splats, evidence.allowances) ??
    scripts(evidence)
  return {
    ...judgement,
    evidence: [
      ...evidenceOf(judgement.verdict, evidence, splats),
      ...allowed.map(
        ({ splat, by }) => `allowed: ${splat.title} (until ${by.expires}, ${describeEntry(by)})`,
      ),
    ],
    ...(allowed.length > 0 ? { allowed: allowed.map(({ splat, by }) => ({ title: splat.title, by })) } : {}),
  }
}

/** Takes the splats that an allowance covers out of the others. */
export function sortSplats(
  splats: readonly Splat[],
  allowances: readonly SplatAllowance[] = [],
): { standing: Splat[]; allowed: { splat: Splat; by: SplatAllowance }[] } {
  const live = allowances.filter(({ isExpired }) => !isExpired)
  const standing: Splat[] = []
  const allowed: { splat: Splat; by: SplatAllowance }[] = []
  for (const splat of splats) {
    const by = splat.kind === 'panic' ? undefined : allowanceFor(live, splat.title)
    if (by) allowed.push({ splat, by })
    else standing.push(splat)
  }
  return { standing, allowed }
}

/**
 * The splats that the console shows, each with the lines that only the kernel's own log has: back traces are often below
 * the console's level.
 */
function wholeSplats({ console, dmesg }: GuestEvidence): Splat[] {
  const shown = findSplats(console)
  if (dmesg === undefined || shown.length === 0) return shown
  const logged = findSplats(dmesg)
  return shown.map((splat) => {
    const at = logged.findIndex(({ title }) => title === splat.title)
    if (at < 0) return splat
    const [whole] = logged.splice(at, 1)
    return whole!.text.length > splat.text.length ? whole! : splat
  })
}

type Finding = Omit<Judgement, 'evidence'> | undefined

function panic({ machine }: GuestEvidence, splats: Splat[]): Finding {
  const report = splats.find(({ kind }) => kind === 'panic')
  if (report) return { verdict: 'panic', reason: report.title }
  if (machine?.panicked) return { verdict: 'panic', reason: 'the guest rang pvpanic' }
}

function vmmCrash({ machine, crash }: GuestEvidence): Finding {
  if (crash !== undefined) return { verdict: 'vmm-crash', reason: crash }
  const ours = ['vmm-error', 'internal-error', 'fail-entry']
  if (machine && ours.includes(machine.reason)) return { verdict: 'vmm-crash', reason: machine.detail }
}

function infra({ failure }: GuestEvidence): Finding {
  if (failure !== undefined) return { verdict: 'infra', reason: failure }
}

function bootFail({
  handshake,
  hang,
  bootTimeout,
  machine,
  stopped,
  console,
  vcpus,
}: GuestEvidence): Finding {
  if (handshake || hang) return
  const last = lastLines(console, 1)[0]
  const said = last ? `; its console ends: ${last}` : '; its console is empty'
  if (bootTimeout) {
    const seconds = bootTimeout.milliseconds / 1000
    const doing = vcpus?.some((vcpu) => vcpu.doing) ? `; ${vcpus.map(describeVcpu).join('; ')}` : ''
    return { verdict: 'boot-fail', reason: `no greeting of the agent within ${seconds} s${doing}${said}` }
  }
  if (stopped) return { verdict: 'skip', reason: 'stopped while it booted' }
  return { verdict: 'boot-fail', reason: `${describeEnd(machine)} before the agent greeted${said}` }
}

function hang({ hang, phase, vcpus }: GuestEvidence): Finding {
  if (!hang) return
  const doing = vcpus?.length ? `; ${vcpus.map(describeVcpu).join('; ')}` : ''
  const seconds = hang.milliseconds / 1000
  const what =
    phase === 'shutdown'
      ? `no power-off for ${seconds} s after it was asked for`
      : `no progress for ${seconds} s ${during(phase)}`
  return { verdict: 'hang', reason: `${what}${doing}` }
}

function oops(splats: Splat[], allowances: readonly SplatAllowance[] = []): Finding {
  const first = splats[0]
  if (!first) return
  const more = splats.length > 1 ? ` (and ${splats.length - 1} more)` : ''
  // A live allowance would have taken it out.
  const expired = allowanceFor(allowances, first.title)
  const was = expired ? `; allowed until ${expired.expires} by ${describeEntry(expired)}` : ''
  return { verdict: 'oops', reason: `${first.title}${more}${was}` }
}

function scripts({ phase, stopped, stayed, machine, scripts }: GuestEvidence): NonNullable<Finding> {
  const late = scripts.find(({ timedOut }) => timedOut)
  if (late) return { verdict: 'timeout', reason: `${late.name} was over its time and was killed` }
  if (phase === 'script') {
    const reason = stopped
      ? 'it was stopped while a script or command ran'
      : `${describeEnd(machine)} while a script or command ran`
    return { verdict: 'fail', reason }
  }
  for (const script of scripts) {
    const problem = problemOf(script)
    if (problem) return { verdict: 'fail', reason: `${script.name}: ${problem}` }
  }
  if (phase !== 'shutdown') {
    return { verdict: 'fail', reason: `${describeEnd(machine)} though nobody asked it to end` }
  }
  if (stayed) return { verdict: 'fail', reason: 'the guest did not power off when it was asked to' }
  if (machine && !orderly.includes(machine.reason)) {
    return { verdict: 'fail', reason: `${describeEnd(machine)} when it was asked to power off` }
  }
  if (scripts.length === 0) return { verdict: 'skip', reason: noScript }
  const skipped = scripts.map(skipReason)
  if (skipped.every((reason) => reason !== undefined)) return { verdict: 'skip', reason: skipped[0]! }
  const points = scripts.flatMap(({ tap }) => tap.points)
  return { verdict: 'pass', reason: `${points.length} point${points.length === 1 ? '' : 's'} ok` }
}

/** Why this script does not pass; undefined when it does, or was skipped. */
function problemOf({ status, signal, tap }: ScriptEvidence): string | undefined {
  const failed = tap.points.filter(({ result }) => result === 'fail')
  if (tap.bailOut !== undefined) return `bail out: ${tap.bailOut}`
  if (failed.length > 0) {
    const names = failed.slice(0, 3).map(({ path, name }) => [...path, name].join(' > '))
    const more = failed.length > 3 ? ', ...' : ''
    return `${failed.length} of ${tap.points.length} points failed: ${names.join(', ')}${more}`
  }
  if (tap.problems.length > 0) return tap.problems[0]
  if (signal !== null) return `killed by ${signal}`
  if (status !== 0) return `exit status ${status} though no point failed`
  if (tap.skipAll !== undefined) return undefined
  if (tap.plan === undefined) return 'no plan'
  if (tap.points.length === 0) return 'no points'
  if (tap.plan !== tap.points.filter(({ path }) => path.length === 0).length) {
    return `planned ${tap.plan} points, saw ${tap.points.filter(({ path }) => path.length === 0).length}`
  }
  return undefined
}

/** A script that skipped itself, or whose every point is a skip. */
function skipReason({ tap }: ScriptEvidence): string | undefined {
  if (tap.skipAll !== undefined) return tap.skipAll
  return tap.points.every(({ result }) => result === 'skip') ? 'every point was skipped' : undefined
}

function during(phase: GuestEvidence['phase']): string {
  const words = {
    boot: 'during boot',
    script: 'while a script or command ran',
    idle: 'between scripts',
    shutdown: 'at the end',
  }
  return words[phase]
}

function describeEnd(machine: MachineEvidence | undefined): string {
  const words: Record<string, string> = {
    poweroff: 'the guest powered off',
    reset: 'the guest reset itself',
    'test-exit': 'the guest wrote the test-exit port',
    'triple-fault': 'the guest triple-faulted',
    halt: 'the guest halted',
    stopped: 'the guest was stopped',
  }
  return words[machine?.reason ?? ''] ?? `the guest ended (${machine?.detail ?? 'nobody knows how'})`
}

/** `vCPU 0 spins at provoke_spin+0x11 [provoke], interrupts off` */
function describeVcpu(vcpu: VcpuEvidence): string {
  const { index, registers, mpState, interruptsEnabled, cpl, doing, at } = vcpu
  const state = doing ?? mpState
  const place = at ?? `rip ${registers.rip ?? '?'}`
  const level = cpl === 3 ? ' (a user program)' : ''
  return `vCPU ${index} ${state ? `${state} ` : ''}at ${place}${level}, interrupts ${interruptsEnabled ? 'on' : 'off'}`
}

function lastLines(text: string, count: number): string[] {
  // Only the end: a console may hold megabytes.
  const lines = text.slice(-64 * 1024).split('\n')
  return lines
    .map((line) => line.trimEnd())
    .filter((line) => line !== '')
    .slice(-count)
}

function evidenceOf(verdict: Verdict, evidence: GuestEvidence, splats: Splat[]): string[] {
  const found = splats.map(({ text }) => text)
  found.push(...(evidence.warnings ?? []).map((warning) => `agent: ${warning}`))
  if (verdict === 'pass' || verdict === 'skip') return found
  if (evidence.machine && evidence.phase !== 'shutdown') found.push(`machine: ${evidence.machine.detail}`)
  found.push(...(evidence.vcpus ?? []).map(describeRegisters), ...(evidence.findings ?? []))
  // A report of the kernel says more than its last lines, and a script's failure is none of the kernel's.
  const ownFailure = (verdict === 'fail' || verdict === 'timeout') && evidence.phase !== 'script'
  if (splats.length === 0 && !ownFailure) found.push(...lastLines(evidence.console, consoleTail))
  return found
}

function describeRegisters(vcpu: VcpuEvidence): string {
  const registers = Object.entries(vcpu.registers).map(([name, value]) => `${name}=${value}`)
  const pending = vcpu.pending?.length ? `, vectors ${vcpu.pending.join(' ')} wait` : ''
  return `${describeVcpu(vcpu)}${pending}: ${registers.join(' ')}`
}
