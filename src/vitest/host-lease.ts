import pLimit from 'p-limit'
import { asHolder } from '../budget/holder.ts'
import type { Host } from '../guest/types.ts'

export interface HostModule {
  openHost(name?: string): Promise<Host>
}

/** Guests that one worker keeps alive at a time; a retry counts as one of them. */
const guests = pLimit(Math.max(1, Number(process.env.KVITEST_GUESTS_PER_WORKER) || 4))

let holders = 0

/** One host for all guests of a file: opened by the first that needs it, closed after the last. */
export class HostLease {
  readonly #load: () => Promise<HostModule>
  #host: Promise<Host> | undefined
  #users = 0

  constructor(load: () => Promise<HostModule>) {
    this.#load = load
  }

  /** Runs `use` with the host when there is room for one more guest; with `signal` it no longer waits for a guest. */
  with<T>(use: (host: Host) => Promise<T>, signal?: AbortSignal): Promise<T> {
    this.#users++
    return guests(() =>
      asHolder({ id: `run ${++holders}`, signal }, async () => {
        try {
          this.#host ??= this.#load().then((module) => module.openHost(process.env.KVITEST_HOST || undefined))
          return await use(await this.#host)
        } finally {
          await this.#release()
        }
      }),
    )
  }

  async #release(): Promise<void> {
    this.#users--
    const host = this.#host
    if (this.#users > 0 || !host) return
    this.#host = undefined
    const opened = await host.catch(() => undefined)
    await opened?.close()
  }
}
