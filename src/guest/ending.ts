import type { HostCheckpoint, HostMachine } from '../host/machine-host.ts'
import type { MachineEnd, VcpuState } from '../native/contract.ts'
import type { KvitestError } from '../native/error.ts'
import type { SplatAllowance } from '../verdict/expectations.ts'
import { type GuestEvidence, judge, type ScriptEvidence } from '../verdict/judge.ts'
import type { Judgement } from '../verdict/types.ts'
import type { SerialLog } from './console-log.ts'
import { type Diagnosis, diagnose } from './diagnosis.ts'
import type { SymbolSource } from './symbols.ts'
import type { GuestEnd } from './types.ts'

export type Phase = GuestEvidence['phase']

/** What the end of a guest looks at. */
export interface EndingSubject {
  console: SerialLog
  machine(): HostMachine | undefined
  symbols(): SymbolSource | undefined
  /** As the guest is now. */
  state(): { phase: Exclude<Phase, 'shutdown'>; handshake: boolean; warnings: readonly string[] }
  /** Splats that are known and make no oops. */
  allowances(): readonly SplatAllowance[]
  /** Its memory is to be kept when it ends badly. */
  keepsCore: boolean
  /** The guest has ended: nothing more comes. Called once, before `ended` resolves. */
  closed(judgement: Judgement): void
}

/** How one guest ends: gathers what is seen of it, stops it when it must, and judges it once. */
export class GuestEnding {
  readonly ended: Promise<GuestEnd>
  readonly scripts: ScriptEvidence[] = []
  readonly #subject: EndingSubject
  readonly #end = Promise.withResolvers<GuestEnd>()
  #settled = false
  /** Where the guest was when its user asked for its end. */
  #stoppedIn: Phase | undefined
  #bootTimeout: GuestEvidence['bootTimeout']
  #hang: GuestEvidence['hang']
  /** Where the guest was when it hung, whatever its user asks for meanwhile. */
  #hangPhase: Phase | undefined
  #vcpus: VcpuState[] | undefined
  #failure: string | undefined
  #crash: string | undefined
  #dmesg: string | undefined
  #stayed = false
  #panicked = false
  #closing: Promise<void> | undefined
  /** What had been seen before a diagnosis made the guest talk, or panic. */
  #before: { console: string; panicked: boolean } | undefined
  #diagnosis: Diagnosis | undefined
  /** The end of a machine that ended under its diagnosis. */
  #held: { machine: MachineEnd | undefined } | undefined
  #core: HostCheckpoint | undefined

  constructor(subject: EndingSubject) {
    this.#subject = subject
    this.ended = this.#end.promise
  }

  get settled(): boolean {
    return this.#settled
  }

  /** Its end is not its own any more: asked for, or decided. */
  get isOver(): boolean {
    return this.#settled || this.#stoppedIn !== undefined || this.#closing !== undefined
  }

  /** Hands over memory and registers at its end, once; only of a guest that ended badly and was to keep them. */
  takeCore(): HostCheckpoint | undefined {
    const core = this.#core
    this.#core = undefined
    return core
  }

  /** What each vCPU did, as far as it was looked at. */
  get vcpus(): readonly VcpuState[] | undefined {
    return this.#diagnosis?.vcpus.length ? (this.#diagnosis.vcpus as VcpuState[]) : this.#vcpus
  }

  /** Its user asks for its end. */
  stopAsked(): void {
    if (!this.#settled) this.#stoppedIn ??= this.#subject.state().phase
  }

  panicRung(): void {
    this.#panicked = true
  }

  /** The kernel's whole log, of a guest that is about to end badly. */
  logFetched(dmesg: string): void {
    this.#dmesg = dmesg
  }

  /** Whether it would end badly if it powered off now. */
  get isBad(): boolean {
    if (this.#settled) return false
    const machine = { reason: 'poweroff', detail: '', panicked: this.#panicked }
    const { phase } = this.#subject.state()
    const { verdict } = judge({ ...this.#evidence(phase === 'idle' ? 'shutdown' : phase), machine })
    return verdict !== 'pass' && verdict !== 'skip'
  }

  /** Nothing moved for so long. Resolves at the guest's end. */
  async hung(milliseconds: number): Promise<void> {
    if (this.isOver) return
    this.#hang = { milliseconds: Math.round(milliseconds) }
    this.#hangPhase = this.#subject.state().phase
    await this.#close(true)
  }

  /** It was asked to power off, so long ago; 0 when it has no limit. */
  async stayed(milliseconds: number): Promise<void> {
    if (this.#settled) return
    if (milliseconds === 0) {
      this.#stayed = true
      return await this.stopNow()
    }
    this.#hang ??= { milliseconds: Math.round(milliseconds) }
    this.#hangPhase ??= 'shutdown'
    await this.#close(true)
  }

  async bootTimedOut(milliseconds: number): Promise<void> {
    if (this.isOver || this.#subject.state().handshake) return
    this.#bootTimeout = { milliseconds }
    await this.#close(true)
  }

  /** Our own fault, such as a broken protocol. */
  failed(error: Error): void {
    this.#failure ??= error.message
    void this.#close(false)
  }

  /** Stops it now; a diagnosis that runs is waited for, which is bounded. */
  async stopNow(): Promise<void> {
    await this.#closing
    // Nothing is left to ask of a machine that was stopped.
    if (this.isBad) await this.#keepCore()
    const machine = this.#subject.machine()
    await machine?.stop().catch(() => {})
  }

  async #keepCore(): Promise<void> {
    if (!this.#subject.keepsCore || this.#core) return
    const machine = this.#subject.machine()
    this.#core = await machine?.checkpoint().catch(() => undefined)
  }

  machineEnded(machine: MachineEnd): void {
    if (this.#before && !this.#diagnosis) this.#held = { machine }
    else void this.#finish(machine)
  }

  /** The host itself is gone, or never made the machine. */
  lost(error: unknown): void {
    if (this.#before && !this.#diagnosis) {
      this.#held = { machine: undefined }
      return
    }
    const text = error instanceof Error ? error.message : String(error)
    if ((error as Partial<KvitestError>)?.code === 'ECRASH') this.#crash ??= text
    else this.#failure ??= text
    void this.#finish(undefined)
  }

  #close(diagnosed: boolean): Promise<void> {
    this.#closing ??= this.#closeOnce(diagnosed)
    return this.#closing
  }

  async #closeOnce(diagnosed: boolean): Promise<void> {
    const { console, symbols } = this.#subject
    const machine = this.#subject.machine()
    if (machine && diagnosed) {
      this.#before = { console: console.text(), panicked: this.#panicked }
      const none: Diagnosis = { vcpus: [], findings: [] }
      this.#diagnosis = await diagnose({ machine, console, symbols: symbols() }).catch(() => none)
      await this.#keepCore()
      if (this.#held) await this.#finish(this.#held.machine)
    } else {
      this.#vcpus ??= await machine?.inspect().catch(() => undefined)
    }
    await machine?.stop().catch(() => {})
  }

  async #finish(machine: MachineEnd | undefined): Promise<void> {
    if (this.#settled) return
    const stoppedIn = this.#stoppedIn === 'idle' ? 'shutdown' : this.#stoppedIn
    const phase = this.#hangPhase ?? stoppedIn ?? this.#subject.state().phase
    const evidence = this.#evidence(phase)
    this.#settled = true
    const vcpus = this.#diagnosis?.vcpus.length ? this.#diagnosis.vcpus : (this.#vcpus ?? machine?.vcpus)
    const judgement = judge({ ...evidence, machine: this.#machineEvidence(machine), vcpus })
    if (!['pass', 'skip'].includes(judgement.verdict)) await this.#keepCore()
    else await this.takeCore()?.release()
    this.#subject.closed(judgement)
    this.#end.resolve({ ...judgement, machine })
    // Gives back what a host keeps for a machine that has ended.
    this.#subject
      .machine()
      ?.stop()
      .catch(() => {})
  }

  /** A machine that was diagnosed ended by our own hand, whatever it then said. */
  #machineEvidence(machine: MachineEnd | undefined): GuestEvidence['machine'] {
    if (!this.#before) return machine
    const { panicked } = this.#before
    return { reason: 'stopped', detail: 'it was stopped after its diagnosis', panicked }
  }

  #evidence(phase: Phase): GuestEvidence {
    const { handshake, warnings } = this.#subject.state()
    return {
      phase,
      stopped: this.#stoppedIn !== undefined,
      stayed: this.#stayed,
      console: this.#before?.console ?? this.#subject.console.text(),
      handshake,
      scripts: this.scripts,
      bootTimeout: this.#bootTimeout,
      hang: this.#hang,
      failure: this.#failure,
      crash: this.#crash,
      warnings,
      dmesg: this.#dmesg,
      findings: this.#diagnosis?.findings,
      allowances: this.#subject.allowances(),
    }
  }
}
