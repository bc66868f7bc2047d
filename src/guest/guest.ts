import type { HostInfo, HostMachine } from '../host/machine-host.ts'
import type { KernelInfo } from '../image/kernel.ts'
import type { MachineEnd, MachineEvent, VcpuState } from '../native/contract.ts'
import { KvitestError } from '../native/error.ts'
import { TapStream } from '../tap/stream.ts'
import { type GuestEvidence, judge, type ScriptEvidence } from '../verdict/judge.ts'
import { AgentClient, type AgentHello } from './agent/client.ts'
import { agentPort } from './agent/protocol.ts'
import type { CheckedOptions } from './boot-options.ts'
import { BoundedBytes } from './bounded-bytes.ts'
import { SerialLog } from './console-log.ts'
import { GuestError } from './error.ts'
import { MachinePort } from './port.ts'
import { loadScript } from './script.ts'
import type {
  ExecOptions,
  ExecResult,
  Guest,
  GuestEnd,
  GuestPort,
  GuestProcess,
  RunOptions,
  RunResult,
  SpawnOptions,
} from './types.ts'
import { answersWithin, IdleWatch } from './watch.ts'

/** Bytes kept of one output of one command. */
const outputLimit = 64 * 1024 * 1024
/** Milliseconds a guest may take to power off. */
const powerOffGrace = 3000
/** Milliseconds the agent may take to report a command that is over its time, beyond the killing itself. */
const overdueGrace = 6000
const overduePatience = 5000

/** A Linux guest from the creation of its machine to its end. */
export class LinuxGuest implements Guest {
  readonly name: string
  readonly kernel: KernelInfo
  readonly host: HostInfo
  readonly console: SerialLog
  readonly ended: Promise<GuestEnd>
  readonly #options: CheckedOptions
  readonly #agent: AgentClient
  readonly #ports: Map<string, MachinePort>
  readonly #watch: IdleWatch
  readonly #end = Promise.withResolvers<GuestEnd>()
  readonly #scripts: ScriptEvidence[] = []
  #machine: HostMachine | undefined
  #hello: AgentHello | undefined
  #bootTime = 0
  #lastProgress = performance.now()
  #running = 0
  #scriptCount = 0
  #settled = false
  #stopping: Promise<GuestEnd> | undefined
  /** Where the guest was when its user asked for its end. */
  #stoppedIn: GuestEvidence['phase'] | undefined
  #bootTimeout: GuestEvidence['bootTimeout']
  #hang: GuestEvidence['hang']
  #vcpus: VcpuState[] | undefined
  #failure: string | undefined

  constructor(options: CheckedOptions, kernel: KernelInfo, host: HostInfo) {
    this.name = options.name
    this.kernel = kernel
    this.host = host
    this.#options = options
    this.console = new SerialLog(options.name)
    this.ended = this.#end.promise
    if (options.onConsoleLine) this.console.onLine(options.onConsoleLine)
    const machine = () => this.#live()
    this.#agent = new AgentClient(
      (data) => machine().write(agentPort, data),
      (error) => this.#agentFailed(error),
    )
    this.#ports = new Map(options.ports.map((name) => [name, new MachinePort(name, machine)]))
    const pulse = { lastProgress: () => this.#lastProgress, ping: () => this.#agent.ping() }
    this.#watch = new IdleWatch(pulse, options.idleLimit, (idle) => void this.#hung(idle))
  }

  get kernelRelease(): string {
    return this.#hello?.kernelRelease ?? this.kernel.release
  }

  get bootTime(): number {
    return this.#bootTime
  }

  /** What the agent could not set up, one line each. */
  get warnings(): readonly string[] {
    return this.#hello?.warnings ?? []
  }

  /** For createMachine: the machine's events, none of them before start(). */
  onEvent(event: MachineEvent): void {
    if (event.type === 'port') this.#ports.get(event.channel)?.guestOpened(event.open)
    if (event.type !== 'data') return
    this.#lastProgress = performance.now()
    const { channel, data } = event
    const port = this.#ports.get(channel)
    if (port) {
      // It says consumed() itself, when its reader has taken them.
      port.receive(data)
      return
    }
    if (channel === agentPort) this.#agent.receive(data)
    else this.console.push(data)
    this.#machine?.consumed(channel, data.byteLength)
  }

  /** Starts the machine and waits for the agent. Rejects with a GuestError; nothing is left running then. */
  async start(machine: HostMachine): Promise<void> {
    this.#machine = machine
    machine.ended.then(
      (end) => this.#finish(end),
      (error) => this.#lost(error),
    )
    const started = performance.now()
    this.console.started()
    const limit = this.#options.bootTimeout
    const timer = setTimeout(() => void this.#bootTimedOut(limit), limit)
    try {
      await machine.start()
      this.#hello = await this.#agent.ready
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
      throw new GuestError(`boot ${this.name} (${this.kernel.name})`, end, this.console.text(), hint)
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
          env: { ...this.#scriptEnvironment(name), ...options.env },
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
    const port = this.#ports.get(name)
    if (port) return port
    const known = [...this.#ports.keys()].join(', ') || 'none'
    throw new KvitestError(`port ${name}`, `${this.name} has no such port (it has: ${known})`, {
      code: 'ENOENT',
      hint: 'name it in the ports of a virtio-console device',
      infra: false,
    })
  }

  async inspect(): Promise<VcpuState[]> {
    return await this.#live().inspect()
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

  async #execute(argv: string[], options: ExecOptions): Promise<ExecResult> {
    const { signal, timeout, stdin } = options
    signal?.throwIfAborted()
    const started = performance.now()
    const stdout = new BoundedBytes(outputLimit)
    const stderr = new BoundedBytes(outputLimit)
    const process = await this.#agent.spawn(argv, {
      ...(options.env ? { env: options.env } : {}),
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(timeout ? { timeout } : {}),
      stdin: stdin !== undefined,
      onStdout: (data) => {
        stdout.push(data)
        options.onStdout?.(data)
      },
      onStderr: (data) => {
        stderr.push(data)
        options.onStderr?.(data)
      },
    })
    const overdue = Promise.withResolvers<Awaited<GuestProcess['exited']>>()
    const timer = timeout
      ? setTimeout(() => void this.#overdue(started, overdue.resolve), timeout + overdueGrace)
      : undefined
    const onAbort = () => void process.kill('SIGKILL').catch(() => {})
    signal?.addEventListener('abort', onAbort, { once: true })
    try {
      // A command need not read all it is given.
      if (stdin !== undefined) feed(process, stdin)
      const exit = await Promise.race([process.exited, overdue.promise])
      signal?.throwIfAborted()
      return { ...exit, stdout: stdout.toString(), stderr: stderr.toString() }
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', onAbort)
    }
  }

  /** A command is over its time and the agent has not reported its end. */
  async #overdue(started: number, giveUp: (exit: Awaited<GuestProcess['exited']>) => void): Promise<void> {
    if (this.#settled) return
    const pulse = { lastProgress: () => this.#lastProgress, ping: () => this.#agent.ping() }
    const idle = performance.now() - this.#lastProgress
    if (await answersWithin(pulse, overduePatience)) {
      // Alive, but the command cannot be killed: it sleeps in the kernel.
      giveUp({ status: null, signal: null, timedOut: true, duration: performance.now() - started })
    } else {
      await this.#hung(idle + overduePatience)
    }
  }

  #scriptEnvironment(name: string): Record<string, string> {
    return {
      KVITEST_CPUS: String(this.#options.cpus),
      KVITEST_MEMORY: String(this.#options.memory),
      KVITEST_KERNEL: this.kernel.name,
      KVITEST_ACCELERATOR: this.host.accelerator,
      KVITEST_SCRIPT: name,
      KVITEST_VARIANT: '',
    }
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
    for (const port of this.#ports.values()) port.end(judgement.reason)
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

async function feed(process: GuestProcess, stdin: Uint8Array | string): Promise<void> {
  try {
    await process.writeStdin(stdin)
    await process.closeStdin()
  } catch {
    // The command has ended, or the guest has; its exit says so.
  }
}

/** The kernel's ENOENT for a script means its interpreter. */
function explainScript(error: unknown, name: string, data: Buffer): unknown {
  if (!(error instanceof KvitestError) || error.code !== 'ENOENT') return error
  const interpreter = data.toString('latin1', 2, data.indexOf(10)).trim().split(/\s/)[0]
  return new KvitestError(`run ${name}`, `the guest has no interpreter ${interpreter}`, {
    code: 'ENOENT',
    hint: "put it there with the option 'files', or use /bin/sh",
    infra: false,
    cause: error,
  })
}
