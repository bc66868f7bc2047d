/** Who asks for something. What one holder has may be what its next request waits for. */
export interface Asker {
  readonly holder: string
  /** A holder that gives nothing back before this one is through: it waits for whatever this one waits for. */
  readonly within?: string | undefined
}

function holdersOf({ holder, within }: Asker): string[] {
  return within === undefined ? [holder] : [holder, within]
}

/** Which holders wait for something, in this line or elsewhere. */
export class Waits {
  readonly #counts = new Map<string, number>()
  /** Somebody began to wait, or stopped. */
  onChange: () => void = () => {}

  begin(asker: Asker): void {
    for (const holder of holdersOf(asker)) this.#counts.set(holder, (this.#counts.get(holder) ?? 0) + 1)
    this.onChange()
  }

  end(asker: Asker): void {
    for (const holder of holdersOf(asker)) {
      const left = (this.#counts.get(holder) ?? 0) - 1
      if (left > 0) this.#counts.set(holder, left)
      else this.#counts.delete(holder)
    }
  }

  has(holder: string): boolean {
    return this.#counts.has(holder)
  }
}

/** Milliseconds in which nothing is granted, comes back or moves on before a line counts as stalled. */
const defaultPatience = 15_000

/** Why a request is offered though it may not fit. */
export type Beyond = 'deadlock' | 'stall' | undefined

/**
 * Requests in the order in which they came. The first one that does not fit holds up all behind it, so that a large one
 * is never overtaken for ever.
 *
 * One exception keeps it going: a holder that has something and asks for more may wait for itself, or two for each
 * other. When every holder of what was granted waits, here or elsewhere, nothing can come back by itself; then the
 * first request of such a holder, or of one within it, is granted, beyond what there is if need be.
 *
 * Not every wait can be seen: a program may keep a guest until something happens that kvitest knows nothing of. So where
 * nothing has moved for a while, the first in line is granted beyond what there is too: one at a time, each after another
 * such while. A budget that is slightly overdrawn is better than a run that stands still.
 */
export class WaitingLine<R extends Asker> {
  readonly #offer: (request: R, beyond: Beyond) => boolean
  readonly #patience: number
  #stall: NodeJS.Timeout | undefined
  readonly #waits: Waits
  readonly #waiting: R[] = []
  readonly #granted = new Set<R>()
  #isAdvancing = false

  /**
   * `offer` hands over what a request asks for and returns true, or returns false where it does not fit; with `beyond`
   * it must hand it over if it can at all. It may call back into the line.
   */
  constructor(
    offer: (request: R, beyond: Beyond) => boolean,
    waits = new Waits(),
    patience = defaultPatience,
  ) {
    this.#offer = offer
    this.#waits = waits
    this.#patience = patience
  }

  get waiting(): readonly R[] {
    return this.#waiting
  }

  get granted(): ReadonlySet<R> {
    return this.#granted
  }

  ask(request: R): void {
    this.#waiting.push(request)
    this.#waits.begin(request)
    this.advance()
    if (!this.#stall) this.moved()
  }

  /** What was granted is being used as it should: the line does not stand still. */
  moved(): void {
    clearTimeout(this.#stall)
    this.#stall = undefined
    if (this.#waiting.length === 0) return
    this.#stall = setTimeout(() => this.#stalled(), this.#patience)
    this.#stall.unref()
  }

  /** Takes over what was granted before, by whoever ran the line then. */
  adopt(request: R): void {
    this.#granted.add(request)
  }

  /** Gives back what was granted, or leaves the line. False: there was no such request. */
  leave(request: R): boolean {
    const at = this.#waiting.indexOf(request)
    if (at >= 0) this.#waiting.splice(at, 1)
    if (at >= 0) this.#waits.end(request)
    const wasGranted = this.#granted.delete(request)
    this.advance()
    if (wasGranted || this.#waiting.length === 0) this.moved()
    return wasGranted || at >= 0
  }

  /** Grants what can be granted now. */
  advance(): void {
    if (this.#isAdvancing) return
    this.#isAdvancing = true
    try {
      while (this.#grantNext());
    } finally {
      this.#isAdvancing = false
    }
  }

  #grantNext(): boolean {
    const [first] = this.#waiting
    if (!first) return false
    if (this.#offer(first, undefined)) return this.#grant(first)
    const holders = new Set([...this.#granted].map(({ holder }) => holder))
    if (![...holders].every((holder) => this.#waits.has(holder))) return false
    const stuck = this.#waiting.find((request) => holdersOf(request).some((holder) => holders.has(holder)))
    return stuck !== undefined && this.#offer(stuck, 'deadlock') && this.#grant(stuck)
  }

  #grant(request: R): true {
    this.#waiting.splice(this.#waiting.indexOf(request), 1)
    this.#granted.add(request)
    this.#waits.end(request)
    this.moved()
    return true
  }

  #stalled(): void {
    const [first] = this.#waiting
    if (first && this.#offer(first, 'stall')) this.#grant(first)
    else this.moved()
    this.advance()
  }
}
