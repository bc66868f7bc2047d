/** How a guest is asked whether it still lives. */
export interface Pulse {
  /** performance.now() of the last byte on any channel. */
  lastProgress: () => number
  /** Resolves when the agent answered. */
  ping: () => Promise<void>
}

/**
 * Calls `onHang` once when nothing moved on any channel for `limit` ms and the agent then did not answer for as long
 * again. A silent script in a live guest is no hang. `limit` 0 never.
 */
export class IdleWatch {
  readonly #pulse: Pulse
  readonly #limit: number
  readonly #onHang: (milliseconds: number) => void
  #timer: NodeJS.Timeout | undefined
  #stopped = false

  constructor(pulse: Pulse, limit: number, onHang: (milliseconds: number) => void) {
    this.#pulse = pulse
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
    const since = this.#pulse.lastProgress()
    const idle = performance.now() - since
    if (idle < this.#limit) {
      this.#wait(this.#limit - idle)
      return
    }
    if (await answersWithin(this.#pulse, this.#limit)) {
      this.#wait(this.#limit)
    } else if (!this.#stopped) {
      this.stop()
      this.#onHang(performance.now() - since)
    }
  }
}

/** How a boot is seen to get on. */
export interface BootPulse {
  /** performance.now() of the last byte on any channel. */
  lastProgress: () => number
  /** Every vCPU halts, or spins where it is. */
  standsStill: () => Promise<boolean>
}

/**
 * Calls `onHang` once when a booting guest said nothing for `limit` ms and its vCPUs then stand still: a quiet boot on a
 * slow host gets on. `limit` 0 never.
 */
export class BootWatch {
  readonly #pulse: BootPulse
  readonly #limit: number
  readonly #onHang: (milliseconds: number) => void
  #timer: NodeJS.Timeout | undefined
  #stopped = false

  constructor(pulse: BootPulse, limit: number, onHang: (milliseconds: number) => void) {
    this.#pulse = pulse
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
    const since = this.#pulse.lastProgress()
    const idle = performance.now() - since
    if (idle < this.#limit) {
      this.#wait(this.#limit - idle)
      return
    }
    const isStill = await this.#pulse.standsStill().catch(() => false)
    if (this.#stopped) return
    if (!isStill || this.#pulse.lastProgress() > since) {
      this.#wait(this.#limit)
      return
    }
    this.stop()
    this.#onHang(performance.now() - since)
  }
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
