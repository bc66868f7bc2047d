import { dirname, resolve } from 'node:path'
import { placeDisks } from '../guest/disk.ts'
import type { GuestRecord } from '../guest/record.ts'
import type { BootOptions, Guest, GuestEnd, Host, RunResult } from '../guest/types.ts'
import type { DeviceSpec, VcpuState } from '../native/contract.ts'
import { KvitestError } from '../native/error.ts'
import type { Point, TapSummary } from '../tap/types.ts'
import type { AllowedSplat, Place } from '../verdict/expectations.ts'
import type { Verdict } from '../verdict/types.ts'
import { boundText } from './bounded-text.ts'
import { GuestArtifacts } from './guest-artifacts.ts'
import type { HostLease } from './host-lease.ts'
import { allowedMeta, type GuestMeta } from './meta.ts'
import { servePeers, serveVsocks } from './peers.ts'
import { devicesOf, type ScriptPlan, type Variant } from './transform/script.ts'

/** Milliseconds the agent gets to end a script that is over its time, before the guest itself is taken down. */
const KILL_GRACE = 15_000
const MAX_CONSOLE = 64 * 1024
/** Verdicts that find no fault. */
export const HARMLESS: readonly Verdict[] = ['pass', 'skip']

/** How the one run of a script in one guest went; nothing of it throws. */
export interface Outcome {
  /** What kept the guest from booting or the script from running to its end. */
  error?: Error
  result?: RunResult
  tap?: TapSummary
  meta: GuestMeta
  evidence: string[]
  /** Where its files are, and how to run it again. */
  trace: string[]
  /** Sampled when the script was over its time and the agent silent. */
  vcpus?: VcpuState[]
}

/** Addresses of the network of a peer: its own, as native/net/peer.h has them, and one for the guest. */
function networkEnvironment(devices: readonly DeviceSpec[]): Record<string, string> {
  const isOnOne = devices.some((device) => device.type === 'virtio-net' && device.backend.kind === 'peer')
  if (!isOnOne) return {}
  return {
    KVITEST_PEER_ADDRESS: '192.0.2.1',
    KVITEST_PEER_MAC: '02:6b:76:00:00:01',
    KVITEST_GUEST_ADDRESS: '192.0.2.2',
  }
}

/** Forks or boots one guest, runs the script in it once, and lets tests wait for its points. */
export class Attempt {
  readonly ended: Promise<Outcome>
  readonly #plan: ScriptPlan
  readonly #variant: Variant
  readonly #onPoint: (point: Point, elapsed: number) => void
  /** The one point that is run, of a script whose points have a fork each. */
  readonly #only: string | undefined
  readonly #allowedSplats: readonly AllowedSplat[]
  readonly #points = new Map<string, { point: Point; elapsed: number }>()
  readonly #waiting = new Map<string, (() => void)[]>()
  readonly #abort = new AbortController()
  readonly #artifacts: GuestArtifacts
  #over = false
  #startedAt = 0
  #guest: Guest | undefined

  constructor(
    plan: ScriptPlan,
    variant: Variant,
    lease: HostLease,
    onPoint: (point: Point, elapsed: number) => void = () => {},
    more: { only?: string | undefined; allowedSplats?: readonly AllowedSplat[] } = {},
  ) {
    this.#plan = plan
    this.#variant = variant
    this.#onPoint = onPoint
    this.#only = more.only
    this.#allowedSplats = more.allowedSplats ?? []
    const guest = [variant.name, more.only].filter(Boolean).join(' ') || 'guest'
    this.#artifacts = new GuestArtifacts(
      plan.file,
      guest,
      plan.header.guest.kernel ? undefined : this.#kernel(),
    )
    this.ended = lease
      .with((host) => this.#run(host), this.#abort.signal)
      .catch((error: Error) => this.#notRun(error))
      .finally(() => this.#finish())
  }

  /** The first point of this name; undefined when the script ended without it. */
  async point(name: string): Promise<{ point: Point; elapsed: number } | undefined> {
    if (!this.#over && !this.#points.has(name)) {
      await new Promise<void>((settle) => {
        const waiting = this.#waiting.get(name) ?? []
        waiting.push(settle)
        this.#waiting.set(name, waiting)
      })
    }
    return this.#points.get(name)
  }

  /** Where its guest runs, as far as it is known by now. */
  get place(): Place {
    return { kernelRelease: this.#guest?.kernelRelease, host: this.#guest?.host.name }
  }

  /** Lines that lead from a test's failure to its guest. `test` as vitest names it, of a declared one only. */
  hints(test: string | undefined): string[] {
    return this.#artifacts.hints(this.#guest?.host.name, test === undefined ? this.#block() : { test })
  }

  /** Ends it now if it still runs. Idempotent. */
  async stop(): Promise<void> {
    if (!this.#over) {
      this.#abort.abort()
      await this.#guest?.stop({ force: true }).catch(() => undefined)
    }
    await this.ended
  }

  async #run(host: Host): Promise<Outcome> {
    this.#abort.signal.throwIfAborted()
    const options = this.#bootOptions()
    const isBooted = this.#plan.header.guest.fork === 'none'
    const guest = await (isBooted ? host.boot(options) : host.fork(options))
    this.#guest = guest
    try {
      return await this.#script(guest)
    } finally {
      await guest.stop({ force: true })
    }
  }

  async #script(guest: Guest): Promise<Outcome> {
    const { header, file } = this.#plan
    const peers = servePeers(guest, header.guest.ports)
    let vcpus: VcpuState[] | undefined
    const guard = setTimeout(async () => {
      vcpus = await guest.inspect().catch(() => undefined)
      await guest.stop({ force: true }).catch(() => undefined)
    }, header.timeout + KILL_GRACE)
    this.#startedAt = performance.now()
    let result: RunResult | undefined
    let error: Error | undefined
    try {
      await serveVsocks(guest, header.guest.devices)
      result = await guest.run(file, {
        env: this.#environment(guest),
        timeout: header.timeout,
        signal: this.#abort.signal,
        onPoint: (point) => this.#settle(point),
      })
    } catch (caught) {
      error = caught as Error
    } finally {
      clearTimeout(guard)
    }
    const end = await guest.stop({ force: error !== undefined })
    await peers.close()
    if (this.#abort.signal.aborted) error = undefined
    const meta = this.#meta(end, guest, result, error)
    const { verdict, reason } = meta
    const { kept, lines } = await this.#artifacts.keep({ ...end, verdict, reason }, guest.record(), {
      ...this.#block(),
      isBad: this.#isBad(verdict),
      saveCore: (path) => guest.saveCore(path),
    })
    return {
      ...(error ? { error } : {}),
      ...(result ? { result, tap: result.tap } : {}),
      ...(vcpus ? { vcpus } : {}),
      evidence: end.evidence,
      trace: lines,
      meta: { ...meta, ...(kept ? { artifacts: kept } : {}) },
    }
  }

  /** A guest that was stopped early is judged by nobody, and its failed points count all the same. */
  #isBad(verdict: Verdict): boolean {
    return (
      !HARMLESS.includes(verdict) || [...this.#points.values()].some(({ point }) => point.result === 'fail')
    )
  }

  #block(): { block?: string } {
    return this.#variant.name === '' ? {} : { block: this.#variant.name }
  }

  #bootOptions(): BootOptions {
    const { guest } = this.#plan.header
    const folder = dirname(this.#plan.file)
    const files = Object.entries(guest.files).map(([path, from]) => [path, resolve(folder, from)])
    const kernel = this.#kernel()
    return {
      ...(kernel === undefined ? {} : { kernel }),
      cpus: this.#variant.cpus,
      memory: this.#variant.memory,
      devices: placeDisks(devicesOf(guest, this.#variant), folder),
      modules: guest.modules.map((name) => (name.includes('/') ? resolve(folder, name) : name)),
      packages: guest.packages,
      files: Object.fromEntries(files),
      allowedSplats: this.#allowedSplats,
      name: [this.#scriptName(), this.#variant.name, this.#only].filter(Boolean).join(' '),
      core: this.#artifacts.wantsCore,
      ...(guest.bootTimeout === undefined ? {} : { bootTimeout: guest.bootTimeout }),
      ...(guest.idleLimit === undefined ? {} : { idleLimit: guest.idleLimit }),
      ...(guest.entry === undefined ? {} : { entry: guest.entry }),
      ...(guest.cmdline === undefined ? {} : { cmdline: guest.cmdline }),
    }
  }

  #environment(guest: Guest): Record<string, string> {
    return {
      ...networkEnvironment(this.#plan.header.guest.devices),
      ...this.#plan.header.env,
      KVITEST_CPUS: String(this.#variant.cpus),
      KVITEST_MEMORY: String(this.#variant.memory),
      KVITEST_KERNEL: guest.kernel.name,
      KVITEST_TRANSPORT: this.#variant.transport,
      KVITEST_RING: this.#variant.ring,
      KVITEST_VARIANT: this.#variant.name,
      KVITEST_SCRIPT: this.#scriptName(),
      KVITEST_ACCELERATOR: guest.host.accelerator,
      ...(this.#only === undefined ? {} : { KVITEST_POINT: this.#only }),
    }
  }

  #settle(point: Point): void {
    const name = [...point.path, point.name].join(' > ')
    const elapsed = Math.max(0, point.settledAt - this.#startedAt)
    if (!this.#points.has(name)) this.#points.set(name, { point, elapsed })
    for (const settle of this.#waiting.get(name) ?? []) settle()
    this.#waiting.delete(name)
    this.#onPoint(point, elapsed)
  }

  #finish(): void {
    this.#over = true
    for (const settle of [...this.#waiting.values()].flat()) settle()
    this.#waiting.clear()
  }

  async #notRun(error: Error): Promise<Outcome> {
    const isWanted = !this.#abort.signal.aborted
    if (!isWanted && !this.#guest) return await this.#failed(new Error('stopped before it booted'), 'skip')
    return await this.#failed(error, error instanceof KvitestError ? 'infra' : 'boot-fail')
  }

  async #failed(error: Error, otherwise: Verdict): Promise<Outcome> {
    const { end: judged, record } = error as { end?: GuestEnd; record?: GuestRecord }
    const verdict = judged?.verdict ?? otherwise
    const reason = judged?.reason ?? error.message
    const evidence = judged?.evidence ?? []
    const end = { verdict, reason, evidence, machine: judged?.machine }
    const { kept, lines } = await this.#artifacts.keep(end, record, this.#block())
    // A guest that never finished booting was never handed to us, but its error has its console.
    const console = this.#guest?.console.text() ?? (error as { console?: string }).console ?? ''
    return {
      error,
      evidence,
      trace: lines,
      meta: {
        ...this.#machine(),
        verdict,
        reason,
        console: boundText(console, MAX_CONSOLE),
        ...(kept ? { artifacts: kept } : {}),
      },
    }
  }

  #meta(end: GuestEnd, guest: Guest, result: RunResult | undefined, error: Error | undefined): GuestMeta {
    return {
      ...this.#machine(),
      kernel: guest.kernel.name,
      kernelRelease: guest.kernelRelease,
      host: guest.host.name,
      hostKernel: guest.host.kernelRelease,
      accelerator: guest.host.accelerator,
      start: guest.forkedFrom ? 'fork' : 'boot',
      bootTime: guest.bootTime,
      ...allowedMeta(end),
      ...(result ? { scriptTime: result.duration } : {}),
      ...this.#judgement(end, error),
      console: boundText(guest.console.text(), MAX_CONSOLE),
    }
  }

  #judgement({ verdict, reason }: GuestEnd, error: Error | undefined): Pick<GuestMeta, 'verdict' | 'reason'> {
    // A guest can end well without its script having run.
    if (error && HARMLESS.includes(verdict)) {
      return {
        verdict: error instanceof KvitestError && !error.infra ? 'fail' : 'infra',
        reason: error.message,
      }
    }
    // A run that nobody needed to its end proves neither a pass nor a failure of the whole.
    const cut = this.#abort.signal.aborted && (verdict === 'pass' || verdict === 'fail')
    return cut ? { verdict: 'skip', reason: 'stopped before the script ended' } : { verdict, reason }
  }

  #machine(): Pick<GuestMeta, 'kernel' | 'cpus' | 'memory'> {
    return { kernel: this.#kernel() ?? 'default', cpus: this.#variant.cpus, memory: this.#variant.memory }
  }

  #kernel(): string | undefined {
    return this.#plan.header.guest.kernel ?? (process.env.KVITEST_KERNEL || undefined)
  }

  #scriptName(): string {
    return this.#plan.file.slice(this.#plan.file.lastIndexOf('/') + 1)
  }
}
