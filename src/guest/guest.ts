import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { HostCheckpoint, HostInfo, HostMachine } from '../host/machine-host.ts'
import type { KernelInfo } from '../image/kernel.ts'
import type { MachineEvent, MachineSpec, VcpuState, VmmFault } from '../native/contract.ts'
import { KvitestError } from '../native/error.ts'
import { allowancesAt, type SplatAllowance } from '../verdict/expectations.ts'
import type { Judgement } from '../verdict/types.ts'
import type { Admit } from './admission.ts'
import { AgentClient, type AgentHello, forkedMessage } from './agent/client.ts'
import { agentPort } from './agent/protocol.ts'
import { type CheckedOptions, forkOptions } from './boot-options.ts'
import { LinuxCheckpoint, saveCore } from './checkpoint.ts'
import { execute, runScript } from './command.ts'
import { SerialLog } from './console-log.ts'
import { GuestDevices } from './devices.ts'
import { standsStill } from './diagnosis.ts'
import { GuestEnding } from './ending.ts'
import { GuestError, hasEnded, wasReset } from './error.ts'
import { Exclusive } from './exclusive.ts'
import { renumber } from './identity.ts'
import { type GuestRecord, GuestRecorder, type MachineAbout } from './record.ts'
import { loadScript, scriptEnvironment } from './script.ts'
import { boundedConsole, type GuestSidecar } from './sidecar.ts'
import type { SymbolSource } from './symbols.ts'
import type {
  ExecOptions,
  ExecResult,
  Guest,
  GuestBalloon,
  GuestDisk,
  GuestEnd,
  GuestForkOptions,
  GuestPort,
  GuestProcess,
  GuestResetOptions,
  GuestScsi,
  GuestVsock,
  RunOptions,
  RunResult,
  SpawnOptions,
} from './types.ts'
import { answersWithin, SilenceWatch, whileItAnswers, whileItMoves } from './watch.ts'

/** Milliseconds that a guest without a limit for it may take to power off. */
const powerOffGrace = 3000
/** Milliseconds for the kernel's log. */
const logLimit = 5000
const overduePatience = 5000
/** In the console of a guest, where it was reset. */
const resetNote = '-- kvitest: reset to its checkpoint --'

/** Where a guest runs. */
export interface GuestPlace {
  host: HostInfo
  /** Called with every guest that starts there. */
  track: (guest: LinuxGuest) => void
  admit: Admit
  /** Names of the addresses of guests that go on from one boot. */
  symbols?: SymbolSource
}

type Clock = GuestForkOptions['clock']

/** A Linux guest from the creation of its machine, or its fork, to its end. */
export class LinuxGuest implements Guest {
  readonly name: string
  readonly kernel: KernelInfo
  readonly host: HostInfo
  readonly console: SerialLog
  readonly ended: Promise<GuestEnd>
  readonly #options: CheckedOptions
  readonly #place: GuestPlace
  readonly #about: MachineAbout
  /** Of a fork: what it goes on from. */
  readonly #origin: GuestSidecar | undefined
  readonly #devices: GuestDevices
  readonly #watch: SilenceWatch
  readonly #ending: GuestEnding
  readonly #recorder: GuestRecorder
  #agent: AgentClient
  #machine: HostMachine | undefined
  #hello: AgentHello | undefined
  #bootTime = 0
  #lastProgress = performance.now()
  #running = 0
  #scriptCount = 0
  #resets = 0
  readonly #exclusive: Exclusive
  /** The machine is going back, and what is sent now would reach another conversation. */
  #resetting = false
  /** As the guest was at the last mark. */
  #marked: GuestSidecar | undefined
  #stopping: Promise<GuestEnd> | undefined

  constructor(
    options: CheckedOptions,
    kernel: KernelInfo,
    place: GuestPlace,
    about: MachineAbout,
    origin?: GuestSidecar,
  ) {
    this.name = options.name
    this.#exclusive = new Exclusive(options.name)
    this.kernel = kernel
    this.host = place.host
    this.#place = place
    this.#about = about
    this.#origin = origin
    this.#options = options
    this.console = new SerialLog(options.name)
    this.#recorder = new GuestRecorder(this.console)
    this.#ending = new GuestEnding({
      console: this.console,
      machine: () => this.#machine,
      symbols: () => place.symbols,
      state: () => ({
        phase: this.#phase(),
        handshake: this.#hello !== undefined,
        warnings: this.warnings,
      }),
      allowances: () => this.allowances(),
      keepsCore: options.core,
      closed: (judgement) => this.#closed(judgement),
    })
    this.ended = this.#ending.ended
    if (origin) {
      this.console.inherit(origin.console)
      this.#recorder.inherit(origin.console)
    }
    if (options.onConsoleLine) this.console.onLine(options.onConsoleLine)
    const machine = () => this.#live()
    this.#agent = this.#converse()
    this.#devices = new GuestDevices(options, machine, origin?.openPorts ?? [])
    const pulse = { lastProgress: () => this.#lastProgress, ping: () => this.#agent.ping() }
    const { script } = options.idleLimits
    this.#watch = new SilenceWatch(whileItAnswers(pulse), script, (idle) => void this.#ending.hung(idle))
  }

  /** A guest that goes on from a checkpoint: start() it with its machine. `spec` of the machine that was saved. */
  static resume(
    spec: MachineSpec,
    sidecar: GuestSidecar,
    options: Omit<GuestForkOptions, 'devices'>,
    place: GuestPlace,
  ): LinuxGuest {
    const checked = forkOptions(spec, sidecar, options, place.host.accelerator)
    return new LinuxGuest(checked, sidecar.kernel, place, { spec }, sidecar)
  }

  /** Rejects with a GuestError when the fork does not answer; nothing is left running then. */
  static async fork(
    checkpoint: HostCheckpoint,
    sidecar: GuestSidecar,
    options: GuestForkOptions,
    place: GuestPlace,
  ): Promise<LinuxGuest> {
    const { cpus, memory } = checkpoint.info.spec
    const guest = options.name ?? `${sidecar.name}-fork`
    return await place.admit({ guest, cpus, memory }, () =>
      LinuxGuest.#fork(checkpoint, sidecar, options, place),
    )
  }

  static async #fork(
    checkpoint: HostCheckpoint,
    sidecar: GuestSidecar,
    options: GuestForkOptions,
    place: GuestPlace,
  ): Promise<LinuxGuest> {
    const requested = performance.now()
    const guest = LinuxGuest.resume(checkpoint.info.spec, sidecar, options, place)
    const { expected, devices = {} } = options
    const own = { name: guest.name, devices, ...(expected ? { expected } : {}) }
    const machine = await checkpoint.fork(own, (event) => guest.onEvent(event))
    await guest.start(machine, { requested, clock: options.clock })
    await renumber(guest, checkpoint.info.spec.devices, devices)
    return guest
  }

  get kernelRelease(): string {
    return this.#hello?.kernelRelease ?? this.kernel.release
  }

  get bootTime(): number {
    return this.#bootTime
  }

  get resets(): number {
    return this.#resets
  }

  get forkedFrom(): Guest['forkedFrom'] {
    return this.#origin && { name: this.#origin.name, bootTime: this.#origin.bootTime }
  }

  /** What the agent could not set up, one line each. */
  get warnings(): readonly string[] {
    return this.#hello?.warnings ?? []
  }

  /** The splats that are allowed where this guest runs. */
  allowances(): SplatAllowance[] {
    const place = { kernelRelease: this.kernelRelease, host: this.host.name }
    return allowancesAt(this.#options.allowedSplats, place, new Date())
  }

  /** For createMachine: the machine's events, none of them before start(). */
  onEvent(event: MachineEvent): void {
    if (event.type === 'mark') this.#atMark(event.mark)
    if (event.type === 'pvpanic') this.#ending.panicRung()
    if (event.type === 'data') this.#lastProgress = performance.now()
    if (this.#devices.onEvent(event) || event.type !== 'data') return
    const { channel, data } = event
    if (channel === agentPort) this.#agent.receive(data)
    else this.console.push(data)
    this.#machine?.consumed(channel, data.byteLength)
  }

  /**
   * Starts the machine and waits for the agent. Rejects with a GuestError; nothing is left running then. Of a fork:
   * when it was asked for, and what becomes of its wall clock.
   */
  async start(machine: HostMachine, fork: { requested?: number; clock?: Clock } = {}): Promise<void> {
    this.#machine = machine
    this.#place.track(this)
    machine.ended.then(
      (end) => this.#ending.machineEnded(end),
      (error) => this.#ending.lost(error),
    )
    const started = fork.requested ?? performance.now()
    this.console.started()
    const limit = this.#options.bootTimeout
    const timer = setTimeout(() => void this.#ending.bootTimedOut(limit), limit)
    const quiet = new SilenceWatch(
      whileItMoves(
        () => this.#lastProgress,
        () => standsStill(machine),
      ),
      this.#options.idleLimits.boot,
      (idle) => void this.#ending.hung(idle),
    )
    this.#lastProgress = performance.now()
    try {
      if (this.#options.core) await machine.keepEnd()
      quiet.start()
      await machine.start()
      const hello = await this.#agent.ready
      if (this.#origin) await this.#agent.forked(forkedMessage(fork.clock === 'now'))
      // Its end is decided: it greeted while it was diagnosed.
      if (this.#ending.isOver) throw new Error('it greeted too late')
      this.#hello = hello
      this.#bootTime = performance.now() - started
      this.#lastProgress = performance.now()
      this.#watch.start()
    } catch (error) {
      // The agent's conversation fails when the machine ends, and its verdict says more.
      await this.#ending.stopNow()
      if (!this.#ending.settled) this.#ending.lost(error)
      const end = await this.ended
      const isQuiet = end.verdict === 'boot-fail' && !/loglevel=[7-9]/.test(this.#options.cmdline)
      const hint = isQuiet ? "boot with loglevel 7 to see the kernel's whole log" : undefined
      const operation = this.#origin ? 'fork' : 'boot'
      const about = `${operation} ${this.name} (${this.kernel.name})`
      throw new GuestError(about, end, this.console.text(), hint, this.record())
    } finally {
      clearTimeout(timer)
      quiet.stop()
    }
  }

  async spawn(argv: string[], options: SpawnOptions = {}): Promise<GuestProcess> {
    return await this.#whileAlive(`exec ${argv[0] ?? ''}`, () => this.#agent.spawn(argv, options))
  }

  async exec(argv: string[], options: ExecOptions = {}): Promise<ExecResult> {
    return await this.#whileRunning(`exec ${argv[0] ?? ''}`, () => this.#execute(argv, options))
  }

  async run(script: string, options: RunOptions = {}): Promise<RunResult> {
    const { name, data } = await loadScript(script)
    const path = `/run/kvitest/${++this.#scriptCount}/${name}`
    const record = this.#recorder.script(name)
    const env = { ...scriptEnvironment(name, this.#options, this), ...options.env }
    return await this.#whileRunning(`run ${name}`, async () => {
      await this.#agent.writeFile(path, data, 0o755)
      const execute = (heard: ExecOptions) => this.#execute([path], heard)
      const result = await runScript({ name, data }, { ...options, env }, record, execute)
      this.#ending.scripts.push({ name, ...result })
      return result
    })
  }

  async writeFile(path: string, data: Uint8Array | string, mode = 0o644): Promise<void> {
    await this.#whileAlive(`write ${path}`, () => this.#agent.writeFile(path, data, mode))
  }

  port(name: string): GuestPort {
    return this.#devices.port(name)
  }

  disk(name: string): GuestDisk {
    return this.#devices.disk(name)
  }

  vsock(name = 'vsock0'): GuestVsock {
    return this.#devices.vsock(name)
  }

  scsi(name = 'scsi0'): GuestScsi {
    return this.#devices.scsi(name)
  }

  balloon(name = 'balloon0'): GuestBalloon {
    return this.#devices.balloon(name)
  }

  setLink: Guest['setLink'] = async (device, up) => await this.#live().setLink(device, up)
  unplug: Guest['unplug'] = async (device, options = {}) => await this.#devices.unplug(device, options)

  async inspect(): Promise<VcpuState[]> {
    return await this.#live().inspect()
  }

  async faultVmm(fault: VmmFault): Promise<void> {
    await this.#live().fault(fault)
  }

  async privateMemory(): Promise<number> {
    return await this.#live().privateMemory()
  }

  async checkpoint(): Promise<LinuxCheckpoint> {
    return await this.#alone('make a checkpoint', async () => {
      this.#marked = undefined
      const checkpoint = await this.#live().checkpoint()
      const sidecar = this.#marked
      if (!sidecar) {
        await checkpoint.release()
        throw new KvitestError('make a checkpoint', `${this.name}: its moment was not told`, {
          code: 'EPROTO',
        })
      }
      const { allowedSplats } = this.#options
      return new LinuxCheckpoint(checkpoint, sidecar, (saved, of, options) =>
        LinuxGuest.fork(saved, of, { allowedSplats, ...options }, this.#place),
      )
    })
  }

  async fork(options?: GuestForkOptions): Promise<Guest> {
    await using checkpoint = await this.checkpoint()
    return await checkpoint.fork(options)
  }

  async reset(options: GuestResetOptions = {}): Promise<void> {
    if (!this.#origin) {
      throw new KvitestError('reset', `${this.name} was booted: it has no checkpoint to go back to`, {
        code: 'EINVAL',
        hint: 'reset a guest that host.fork() or guest.fork() made',
        infra: false,
      })
    }
    await this.#alone('reset', async () => {
      this.#resetting = true
      try {
        await this.#live().reset()
      } finally {
        this.#resetting = false
      }
      await this.#agent.forked(forkedMessage(options.clock === 'now'))
      this.#resets++
      this.#lastProgress = performance.now()
    })
  }

  async stop(options: { force?: boolean } = {}): Promise<GuestEnd> {
    this.#ending.stopAsked()
    if (options.force) await this.#ending.stopNow()
    this.#stopping ??= this.#powerOff()
    return await this.#stopping
  }

  record(): GuestRecord {
    const { name, kernel, host } = this
    return { name, kernel, host, ...this.#about, ...this.#recorder.record(), vcpus: this.#ending.vcpus ?? [] }
  }

  async saveCore(path: string): Promise<void> {
    await saveCore(this.#ending.takeCore(), () => this.#live(), path)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  async #powerOff(): Promise<GuestEnd> {
    this.#watch.stop()
    const { shutdown } = this.#options.idleLimits
    if (this.#machine && !this.#ending.settled && this.#hello) {
      if (this.#running === 0 && this.#ending.isBad) await this.#fetchLog()
      this.#agent.powerOff().catch(() => {})
      const late = Promise.withResolvers<boolean>()
      const timer = setTimeout(() => late.resolve(true), shutdown || powerOffGrace)
      const isLate = await Promise.race([this.ended.then(() => false), late.promise])
      clearTimeout(timer)
      if (isLate) await this.#ending.stayed(shutdown)
    }
    await this.#ending.stopNow()
    return await this.ended
  }

  /** What the console's level left out, of a guest that still answers. */
  async #fetchLog(): Promise<void> {
    const fetched = this.#execute(['dmesg'], { timeout: logLimit }).catch(() => undefined)
    const result = await Promise.race([fetched, sleep(logLimit + overduePatience, undefined, { ref: false })])
    if (result?.status !== 0) return
    this.#recorder.keepLog(result.stdout)
    this.#ending.logFetched(result.stdout)
  }

  #phase(): 'boot' | 'script' | 'idle' {
    if (!this.#hello) return 'boot'
    return this.#running > 0 ? 'script' : 'idle'
  }

  #live(): HostMachine {
    if (this.#machine && !this.#ending.settled) return this.#machine
    throw new KvitestError(`guest ${this.name}`, this.#machine ? 'it has ended' : 'it was not started', {
      code: 'EPIPE',
      infra: false,
    })
  }

  async #whileRunning<T>(operation: string, work: () => Promise<T>): Promise<T> {
    this.#running++
    try {
      return await this.#whileAlive(operation, work)
    } finally {
      this.#running--
    }
  }

  /** A failure because the guest ended becomes a GuestError that says how it ended. */
  async #whileAlive<T>(operation: string, work: () => Promise<T>): Promise<T> {
    if (this.#ending.settled) {
      throw new GuestError(operation, await this.ended, this.console.text(), 'boot another guest')
    }
    try {
      return await work()
    } catch (error) {
      if (!this.#ending.settled && (error as KvitestError).code !== 'EPIPE') throw error
      throw new GuestError(operation, await this.ended, this.console.text())
    }
  }

  #execute(argv: string[], options: ExecOptions): Promise<ExecResult> {
    return execute(this.#agent, argv, options, () => this.#overdue())
  }

  /** A command is over its time and the agent has not reported its end. */
  async #overdue(): Promise<boolean> {
    if (this.#ending.settled) return false
    const pulse = { lastProgress: () => this.#lastProgress, ping: () => this.#agent.ping() }
    const idle = performance.now() - this.#lastProgress
    if (await answersWithin(pulse, overduePatience)) return true
    await this.#ending.hung(idle + overduePatience)
    return false
  }

  async #alone<T>(operation: string, work: () => Promise<T>): Promise<T> {
    return await this.#exclusive.run(operation, () => this.#whileAlive(operation, work))
  }

  /** A conversation with the agent, of a fork from where the checkpoint's stopped. */
  #converse(): AgentClient {
    const write = (data: Uint8Array) =>
      this.#resetting ? Promise.reject(wasReset(this.name)) : this.#live().write(agentPort, data)
    const onFailure = (error: KvitestError) => this.#ending.failed(error)
    const listeners = { onFailure, onFrame: this.#recorder.frame }
    if (!this.#origin) return new AgentClient(write, listeners)
    return AgentClient.resume(this.#origin.agent, write, listeners)
  }

  #atMark(mark: 'checkpoint' | 'reset'): void {
    if (mark === 'checkpoint') {
      // Nobody saves a guest that has not greeted: its owner does not have it yet.
      if (this.#hello) this.#marked = this.#sidecar()
      return
    }
    const before = this.#agent
    this.#resetting = false
    this.#agent = this.#converse()
    before.fail(wasReset(this.name))
    this.#devices.reset(this.#origin?.openPorts ?? [])
    this.console.note(resetNote)
  }

  #sidecar(): GuestSidecar {
    return {
      agent: this.#agent.snapshot(),
      console: boundedConsole(this.console.text()),
      openPorts: this.#devices.openPorts,
      bootTime: this.#origin?.bootTime ?? this.#bootTime,
      kernel: this.kernel,
      name: this.name,
      cmdline: this.#options.cmdline,
      // A fork's fork has the addresses of the guest that was booted.
      moment: this.#origin?.moment ?? randomUUID(),
    }
  }

  #closed({ reason }: Judgement): void {
    this.#watch.stop()
    this.console.end(reason)
    this.#devices.end(reason)
    this.#agent.fail(hasEnded(this.name, reason))
  }
}
