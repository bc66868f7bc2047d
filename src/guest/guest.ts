import type { HostCheckpoint, HostInfo, HostMachine } from '../host/machine-host.ts'
import type { KernelInfo } from '../image/kernel.ts'
import type { MachineEnd, MachineEvent, MachineSpec, VcpuState } from '../native/contract.ts'
import { KvitestError } from '../native/error.ts'
import { TapStream } from '../tap/stream.ts'
import { type GuestEvidence, judge, type ScriptEvidence } from '../verdict/judge.ts'
import { AgentClient, type AgentHello, forkedMessage } from './agent/client.ts'
import { agentPort } from './agent/protocol.ts'
import { type CheckedOptions, forkOptions } from './boot-options.ts'
import { LinuxCheckpoint } from './checkpoint.ts'
import { execute, explainScript } from './command.ts'
import { SerialLog } from './console-log.ts'
import { GuestDevices } from './devices.ts'
import { GuestError } from './error.ts'
import { renumber } from './identity.ts'
import { loadScript, scriptEnvironment } from './script.ts'
import { boundedConsole, type GuestSidecar } from './sidecar.ts'
import type {
  ExecOptions,
  ExecResult,
  Guest,
  GuestDisk,
  GuestEnd,
  GuestForkOptions,
  GuestPort,
  GuestProcess,
  GuestResetOptions,
  GuestVsock,
  RunOptions,
  RunResult,
  SpawnOptions,
} from './types.ts'
import { answersWithin, IdleWatch } from './watch.ts'

/** Milliseconds a guest may take to power off. */
const powerOffGrace = 3000
const overduePatience = 5000
/** In the console of a guest, where it was reset. */
const resetNote = '-- kvitest: reset to its checkpoint --'

/** Where a guest runs. */
export interface GuestPlace {
  host: HostInfo
  /** Called with every guest that starts there. */
  track: (guest: LinuxGuest) => void
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
  /** Of a fork: what it goes on from. */
  readonly #origin: GuestSidecar | undefined
  readonly #devices: GuestDevices
  readonly #watch: IdleWatch
  readonly #end = Promise.withResolvers<GuestEnd>()
  readonly #scripts: ScriptEvidence[] = []
  #agent: AgentClient
  #machine: HostMachine | undefined
  #hello: AgentHello | undefined
  #bootTime = 0
  #lastProgress = performance.now()
  #running = 0
  #scriptCount = 0
  #settled = false
  /** A checkpoint or a reset is being made. */
  #busy = false
  /** The machine is going back, and what is sent now would reach another conversation. */
  #resetting = false
  /** As the guest was at the last mark. */
  #marked: GuestSidecar | undefined
  #stopping: Promise<GuestEnd> | undefined
  /** Where the guest was when its user asked for its end. */
  #stoppedIn: GuestEvidence['phase'] | undefined
  #bootTimeout: GuestEvidence['bootTimeout']
  #hang: GuestEvidence['hang']
  #vcpus: VcpuState[] | undefined
  #failure: string | undefined

  constructor(options: CheckedOptions, kernel: KernelInfo, place: GuestPlace, origin?: GuestSidecar) {
    this.name = options.name
    this.kernel = kernel
    this.host = place.host
    this.#place = place
    this.#origin = origin
    this.#options = options
    this.console = new SerialLog(options.name)
    this.ended = this.#end.promise
    if (origin) this.console.inherit(origin.console)
    if (options.onConsoleLine) this.console.onLine(options.onConsoleLine)
    const machine = () => this.#live()
    this.#agent = this.#converse()
    this.#devices = new GuestDevices(options, machine, origin?.openPorts ?? [])
    const pulse = { lastProgress: () => this.#lastProgress, ping: () => this.#agent.ping() }
    this.#watch = new IdleWatch(pulse, options.idleLimit, (idle) => void this.#hung(idle))
  }

  /** A guest that goes on from a checkpoint: start() it with its machine. `spec` of the machine that was saved. */
  static resume(
    spec: MachineSpec,
    sidecar: GuestSidecar,
    options: Omit<GuestForkOptions, 'devices'>,
    place: GuestPlace,
  ): LinuxGuest {
    return new LinuxGuest(forkOptions(spec, sidecar, options), sidecar.kernel, place, sidecar)
  }

  /** Rejects with a GuestError when the fork does not answer; nothing is left running then. */
  static async fork(
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

  get forkedFrom(): Guest['forkedFrom'] {
    return this.#origin && { name: this.#origin.name, bootTime: this.#origin.bootTime }
  }

  /** What the agent could not set up, one line each. */
  get warnings(): readonly string[] {
    return this.#hello?.warnings ?? []
  }

  /** For createMachine: the machine's events, none of them before start(). */
  onEvent(event: MachineEvent): void {
    if (event.type === 'mark') this.#atMark(event.mark)
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
      (end) => this.#finish(end),
      (error) => this.#lost(error),
    )
    const started = fork.requested ?? performance.now()
    this.console.started()
    const limit = this.#options.bootTimeout
    const timer = setTimeout(() => void this.#bootTimedOut(limit), limit)
    try {
      await machine.start()
      const hello = await this.#agent.ready
      if (this.#origin) await this.#announce(fork.clock)
      this.#hello = hello
      this.#bootTime = performance.now() - started
      this.#lastProgress = performance.now()
      this.#watch.start()
    } catch (error) {
      // The agent's conversation fails when the machine ends, and its verdict says more.
      await machine.stop().catch(() => {})
      if (!this.#settled) this.#lost(error)
      const end = await this.ended
      const quiet = end.verdict === 'boot-fail' && !/loglevel=[7-9]/.test(this.#options.cmdline)
      const hint = quiet ? "boot with loglevel 7 to see the kernel's whole log" : undefined
      const operation = this.#origin ? 'fork' : 'boot'
      throw new GuestError(`${operation} ${this.name} (${this.kernel.name})`, end, this.console.text(), hint)
    } finally {
      clearTimeout(timer)
    }
  }

  async spawn(argv: string[], options: SpawnOptions = {}): Promise<GuestProcess> {
    return await this.#whileAlive(`exec ${argv[0] ?? ''}`, () => this.#agent.spawn(argv, options))
  }

  async exec(argv: string[], options: ExecOptions = {}): Promise<ExecResult> {
    this.#running++
    try {
      return await this.#whileAlive(`exec ${argv[0] ?? ''}`, () => this.#execute(argv, options))
    } finally {
      this.#running--
    }
  }

  async run(script: string, options: RunOptions = {}): Promise<RunResult> {
    const { name, data } = await loadScript(script)
    const path = `/run/kvitest/${++this.#scriptCount}/${name}`
    const tap = new TapStream({ onPoint: options.onPoint, onDiagnostic: options.onDiagnostic })
    this.#running++
    try {
      return await this.#whileAlive(`run ${name}`, async () => {
        await this.#agent.writeFile(path, data, 0o755)
        const result = await this.#execute([path], {
          ...options,
          env: { ...scriptEnvironment(name, this.#options, this), ...options.env },
          onStdout: (bytes) => {
            tap.write(bytes)
            options.onStdout?.(bytes)
          },
        }).catch((error) => {
          throw explainScript(error, name, data)
        })
        const summary = tap.end()
        this.#scripts.push({ name, ...result, tap: summary })
        return { ...result, tap: summary }
      })
    } finally {
      // Points that the guest's end cut off still settle.
      tap.end()
      this.#running--
    }
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

  async setLink(device: string, up: boolean): Promise<void> {
    await this.#live().setLink(device, up)
  }

  async inspect(): Promise<VcpuState[]> {
    return await this.#live().inspect()
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
      return new LinuxCheckpoint(checkpoint, sidecar, (...fork) => LinuxGuest.fork(...fork, this.#place))
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
      await this.#announce(options.clock)
      this.#lastProgress = performance.now()
    })
  }

  async stop(options: { force?: boolean } = {}): Promise<GuestEnd> {
    if (!this.#settled) this.#stoppedIn ??= this.#phase()
    if (options.force) await this.#machine?.stop().catch(() => {})
    this.#stopping ??= this.#powerOff()
    return await this.#stopping
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  async #powerOff(): Promise<GuestEnd> {
    this.#watch.stop()
    const machine = this.#machine
    if (!machine) return await this.ended
    if (!this.#settled && this.#hello) {
      // A guest that cannot take the request is stopped after the same grace.
      this.#agent.powerOff().catch(() => {})
      const timeout = Promise.withResolvers<void>()
      const timer = setTimeout(timeout.resolve, powerOffGrace)
      await Promise.race([this.ended, timeout.promise])
      clearTimeout(timer)
    }
    await machine.stop().catch(() => {})
    return await this.ended
  }

  #phase(): GuestEvidence['phase'] {
    if (!this.#hello) return 'boot'
    return this.#running > 0 ? 'script' : 'idle'
  }

  #live(): HostMachine {
    if (this.#machine && !this.#settled) return this.#machine
    throw new KvitestError(`guest ${this.name}`, this.#machine ? 'it has ended' : 'it was not started', {
      code: 'EPIPE',
      infra: false,
    })
  }

  /** A failure because the guest ended becomes a GuestError that says how it ended. */
  async #whileAlive<T>(operation: string, work: () => Promise<T>): Promise<T> {
    if (this.#settled) {
      throw new GuestError(operation, await this.ended, this.console.text(), 'boot another guest')
    }
    try {
      return await work()
    } catch (error) {
      if (!this.#settled && (error as KvitestError).code !== 'EPIPE') throw error
      throw new GuestError(operation, await this.ended, this.console.text())
    }
  }

  #execute(argv: string[], options: ExecOptions): Promise<ExecResult> {
    return execute(this.#agent, argv, options, () => this.#overdue())
  }

  /** A command is over its time and the agent has not reported its end. */
  async #overdue(): Promise<boolean> {
    if (this.#settled) return false
    const pulse = { lastProgress: () => this.#lastProgress, ping: () => this.#agent.ping() }
    const idle = performance.now() - this.#lastProgress
    if (await answersWithin(pulse, overduePatience)) return true
    await this.#hung(idle + overduePatience)
    return false
  }

  /** Work that no other checkpoint or reset may come between. */
  async #alone<T>(operation: string, work: () => Promise<T>): Promise<T> {
    if (this.#busy) {
      throw new KvitestError(operation, `${this.name}: a checkpoint or a reset is being made`, {
        code: 'EBUSY',
        hint: 'wait for the first one',
        infra: false,
      })
    }
    this.#busy = true
    try {
      return await this.#whileAlive(operation, work)
    } finally {
      this.#busy = false
    }
  }

  /** A conversation with the agent, of a fork from where the checkpoint's stopped. */
  #converse(): AgentClient {
    const write = (data: Uint8Array) => {
      if (this.#resetting) return Promise.reject(this.#cancelled())
      return this.#live().write(agentPort, data)
    }
    const onFailure = (error: KvitestError) => this.#agentFailed(error)
    if (!this.#origin) return new AgentClient(write, onFailure)
    return AgentClient.resume(this.#origin.agent, write, onFailure)
  }

  /** Tells a fork that it is one: forks of one checkpoint must not share random numbers and ids. */
  async #announce(clock: Clock): Promise<void> {
    await this.#agent.forked(forkedMessage(clock === 'now'))
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
    before.fail(this.#cancelled())
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
    }
  }

  #cancelled(): KvitestError {
    return new KvitestError(`guest ${this.name}`, 'it was reset to its checkpoint', {
      code: 'ECANCELED',
      infra: false,
    })
  }

  async #hung(milliseconds: number): Promise<void> {
    if (this.#settled || this.#stoppedIn) return
    this.#hang ??= { milliseconds: Math.round(milliseconds) }
    await this.#stopForGood()
  }

  async #bootTimedOut(milliseconds: number): Promise<void> {
    if (this.#settled || this.#stoppedIn || this.#hello) return
    this.#bootTimeout = { milliseconds }
    await this.#stopForGood()
  }

  #agentFailed(error: KvitestError): void {
    this.#failure ??= error.message
    void this.#stopForGood()
  }

  async #stopForGood(): Promise<void> {
    this.#vcpus ??= await this.#machine?.inspect().catch(() => undefined)
    await this.#machine?.stop().catch(() => {})
  }

  #lost(error: unknown): void {
    this.#failure ??= error instanceof Error ? error.message : String(error)
    this.#finish(undefined)
  }

  #finish(machine: MachineEnd | undefined): void {
    if (this.#settled) return
    const stopped = this.#stoppedIn !== undefined
    const phase = this.#stoppedIn === 'idle' ? 'shutdown' : (this.#stoppedIn ?? this.#phase())
    this.#settled = true
    this.#watch.stop()
    const vcpus = this.#vcpus ?? machine?.vcpus
    const judgement = judge({
      phase,
      stopped,
      machine,
      console: this.console.text(),
      handshake: this.#hello !== undefined,
      scripts: this.#scripts,
      bootTimeout: this.#bootTimeout,
      hang: this.#hang,
      failure: this.#failure,
      warnings: this.warnings,
      vcpus,
    })
    this.console.end(judgement.reason)
    this.#devices.end(judgement.reason)
    this.#agent.fail(
      new KvitestError(`guest ${this.name}`, `it has ended (${judgement.reason})`, {
        code: 'EPIPE',
        infra: false,
      }),
    )
    this.#end.resolve({ ...judgement, machine })
    // Gives back what a host keeps for a machine that has ended.
    this.#machine?.stop().catch(() => {})
  }
}
