import { setTimeout as sleep } from 'node:timers/promises'
import type { HostMachine } from '../host/machine-host.ts'
import type { BalloonReport, BalloonRequest } from '../native/contract.ts'
import { KvitestError } from '../native/error.ts'
import type { BalloonStatistics, GuestBalloon } from './types.ts'

/** Names of statistics by tag (virtio 1.3, 5.5.6.4; from 10 on as Linux 6.12 has them). */
const tags: readonly (keyof BalloonStatistics)[] = [
  'swapIn',
  'swapOut',
  'majorFaults',
  'minorFaults',
  'free',
  'total',
  'available',
  'caches',
  'hugetlbAllocations',
  'hugetlbFailures',
  'oomKills',
  'allocationStalls',
  'asyncScans',
  'directScans',
  'asyncReclaims',
  'directReclaims',
]

const patience = 30_000
/** Between two looks at what the driver has done, milliseconds. */
const pause = 20

/** The host's side of a virtio-balloon device. */
export class MachineBalloon implements GuestBalloon {
  readonly name: string
  readonly #machine: () => HostMachine

  constructor(name: string, machine: () => HostMachine) {
    this.name = name
    this.#machine = machine
  }

  async report(): Promise<BalloonReport> {
    return await this.#ask()
  }

  async setTarget(bytes: number): Promise<void> {
    await this.#ask({ target: bytes })
  }

  async inflate(bytes: number, { timeout = patience } = {}): Promise<BalloonReport> {
    await this.#ask({ target: bytes })
    return await this.#until(`inflate to ${bytes} bytes`, timeout, ({ actual }) => actual === bytes)
  }

  async statistics({ timeout = patience } = {}): Promise<BalloonStatistics> {
    const { updates } = await this.#ask()
    await this.#ask({ statistics: true })
    const fresh = await this.#until('ask for statistics', timeout, (report) => report.updates > updates)
    const named = Object.entries(fresh.statistics).map(([tag, value]) => [tags[Number(tag)] ?? tag, value])
    return Object.fromEntries(named)
  }

  async poll(interval: number): Promise<void> {
    await this.#ask({ interval })
  }

  async hints({ timeout = patience } = {}): Promise<number> {
    const { rounds } = await this.#ask()
    await this.#ask({ hints: true })
    return (await this.#until('ask for hints', timeout, (report) => report.rounds > rounds)).hinted
  }

  async #ask(request?: BalloonRequest): Promise<BalloonReport> {
    return await this.#machine().balloon(this.name, request)
  }

  async #until(
    operation: string,
    timeout: number,
    isThere: (report: BalloonReport) => boolean,
  ): Promise<BalloonReport> {
    const end = performance.now() + timeout
    for (;;) {
      const report = await this.#ask()
      if (isThere(report)) return report
      if (performance.now() > end) {
        throw new KvitestError(
          `balloon ${this.name}: ${operation}`,
          `the driver has ${report.actual} of ${report.target} bytes in it, and has not done it in ${timeout} ms`,
          {
            code: 'ETIMEDOUT',
            hint: 'is virtio_balloon bound, and has the guest memory to spare?',
            infra: false,
          },
        )
      }
      await sleep(pause)
    }
  }
}
