/** How a guest is asked whether it still lives. */
export interface Pulse {
  /** performance.now() of the last byte on any channel. */
  lastProgress: () => number
  /** Resolves when the agent answered. */
  ping: () => Promise<void>
}

/** How a silent guest is looked at. */
export interface Silence {
  /** performance.now() of the last byte on any channel. */
  lastProgress: () => number
  /** Asked once the silence is `limit` ms long: true when the guest gets on all the same. */
  getsOn: (limit: number) => Promise<boolean>
}

/** Calls `onHang` once when nothing moved on any channel for `limit` ms and the guest does not get on. `limit` 0 never. */
export class SilenceWatch {
  readonly #silence: Silence
  readonly #limit: number
  readonly #onHang: (milliseconds: number) => void
  #timer: NodeJS.Timeout | undefined
  #stopped = false

  constructor(silence: Silence, limit: number, onHang: (milliseconds: number) => void) {
    this.#silence = silence
    this.#limit = limit
    this.#onHang = onHang
  }

  start(): void {
    if (this.#limit > 0) this.#wait(this.#limit)
  }

  stop(): void {
    this.#stopped = true
    clearTimeout(this.#timer)
  }

  #wait(milliseconds: number): void {
    if (this.#stopped) return
    this.#timer = setTimeout(() => void this.#look(), Math.max(milliseconds, 1))
    this.#timer.unref()
  }

  async #look(): Promise<void> {
    const since = this.#silence.lastProgress()
    const idle = performance.now() - since
    if (idle < this.#limit) {
      this.#wait(this.#limit - idle)
      return
    }
    const getsOn = await this.#silence.getsOn(this.#limit)
    if (this.#stopped) return
    if (getsOn || this.#silence.lastProgress() > since) {
      this.#wait(this.#limit)
      return
    }
    this.stop()
    this.#onHang(performance.now() - since)
  }
}

/**
 * Of a guest that runs: silent beyond the limit, and then neither a byte nor an answer of the agent for as long again. A
 * silent script in a live guest is no hang.
 */
export function whileItAnswers(pulse: Pulse): Silence {
  return { lastProgress: pulse.lastProgress, getsOn: (limit) => answersWithin(pulse, limit) }
}

/**
 * Of a guest that boots: silent beyond the limit, and then every vCPU halts, or spins where it is. A quiet boot on a slow
 * host gets on.
 */
export function whileItMoves(lastProgress: () => number, standsStill: () => Promise<boolean>): Silence {
  return { lastProgress, getsOn: async () => !(await standsStill().catch(() => false)) }
}

/** An answer, or any byte at all: an answer may have to queue behind output. */
export async function answersWithin(pulse: Pulse, milliseconds: number): Promise<boolean> {
  const asked = performance.now()
  const { promise, resolve } = Promise.withResolvers<boolean>()
  const timer = setTimeout(() => resolve(pulse.lastProgress() > asked), milliseconds)
  timer.unref()
  // A failed ping means that the guest has ended, which is no hang.
  pulse.ping().then(
    () => resolve(true),
    () => resolve(true),
  )
  try {
    return await promise
  } finally {
    clearTimeout(timer)
  }
}
