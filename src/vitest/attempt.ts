import { dirname, resolve } from 'node:path'
import { placeDisks } from '../guest/disk.ts'
import type { BootOptions, Guest, GuestEnd, Host, RunResult } from '../guest/types.ts'
import type { DeviceSpec, VcpuState } from '../native/contract.ts'
import { KvitestError } from '../native/error.ts'
import type { Point, TapSummary } from '../tap/types.ts'
import type { Verdict } from '../verdict/types.ts'
import { boundText } from './bounded-text.ts'
import type { HostLease } from './host-lease.ts'
import type { GuestMeta } from './meta.ts'
import { servePeers, serveVsocks } from './peers.ts'
import type { ScriptPlan, Variant } from './transform/script.ts'

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
  readonly #points = new Map<string, { point: Point; elapsed: number }>()
  readonly #waiting = new Map<string, (() => void)[]>()
  readonly #abort = new AbortController()
  #over = false
  #startedAt = 0
  #guest: Guest | undefined

  constructor(
    plan: ScriptPlan,
    variant: Variant,
    lease: HostLease,
    onPoint: (point: Point, elapsed: number) => void = () => {},
    only?: string,
  ) {
    this.#plan = plan
    this.#variant = variant
    this.#onPoint = onPoint
    this.#only = only
    this.ended = lease
      .with((host) => this.#run(host))
      .catch((error: Error) => this.#failed(error, error instanceof KvitestError ? 'infra' : 'boot-fail'))
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

  /** Ends it now if it still runs. Idempotent. */
  async stop(): Promise<void> {
    if (!this.#over) {
      this.#abort.abort()
      await this.#guest?.stop({ force: true }).catch(() => undefined)
    }
    await this.ended
  }

  async #run(host: Host): Promise<Outcome> {
    if (this.#abort.signal.aborted) return this.#failed(new Error('stopped before it booted'), 'skip')
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
    return {
      ...(error ? { error } : {}),
      ...(result ? { result, tap: result.tap } : {}),
      ...(vcpus ? { vcpus } : {}),
      evidence: end.evidence,
      meta: this.#meta(end, guest, result, error),
    }
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
      devices: placeDisks(guest.devices, folder),
      modules: guest.modules.map((name) => (name.includes('/') ? resolve(folder, name) : name)),
      files: Object.fromEntries(files),
      bootTimeout: guest.bootTimeout,
      name: [this.#scriptName(), this.#variant.name, this.#only].filter(Boolean).join(' '),
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

  #failed(error: Error, verdict: Verdict): Outcome {
    const judged = (error as { end?: GuestEnd }).end
    // A guest that never finished booting was never handed to us, but its error has its console.
    const console = this.#guest?.console.text() ?? (error as { console?: string }).console ?? ''
    return {
      error,
      evidence: judged?.evidence ?? [],
      meta: {
        ...this.#machine(),
        verdict: judged?.verdict ?? verdict,
        reason: judged?.reason ?? error.message,
        console: boundText(console, MAX_CONSOLE),
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
      bootTime: guest.bootTime,
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
