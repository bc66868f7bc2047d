import type { GuestEvent, RunEvent } from '../budget/messages.ts'
import type { LabEvent } from '../host/index.ts'
import type { LeaseCount } from '../report/summary.ts'

export type { LeaseCount } from '../report/summary.ts'

interface GuestNow {
  name: string
  state: 'waiting' | 'starting' | 'running'
  /** performance.now() of the last change. */
  since: number
  /** What it waits for. */
  detail?: string | undefined
}

/** How a guest of a run went on, one plain line each. */
const words = { waiting: 'waits for', starting: 'starts', running: 'runs', ended: 'ended' } as const

/** What the guests and labs of one run do now, as its processes tell it. */
export class LiveRun {
  #leases: LeaseCount = { count: 0, waited: 0, longestWait: 0, stalled: 0 }
  readonly #guests = new Map<string, GuestNow>()
  readonly #labs = new Map<string, { state: LabEvent['state']; since: number }>()
  readonly #print: (line: string) => void
  readonly #hasEvents: boolean

  /** `print` gets one line, without its end; `events`: each event is printed. */
  constructor(print: (line: string) => void, { events = false } = {}) {
    this.#print = print
    this.#hasEvents = events
  }

  onRun(event: RunEvent): void {
    if (event.type === 'console') this.#print(`${event.guest} | ${event.line}`)
    else this.#onGuest(event)
  }

  onLab({ name, state, detail }: LabEvent): void {
    if (state === 'crowded') this.#leases.stalled++
    else if (state === 'ended') this.#labs.delete(name)
    else this.#labs.set(name, { state, since: performance.now() })
    if (this.#hasEvents) this.#print(`kvitest  ${name} ${[state, detail].filter(Boolean).join(' ')}`)
  }

  /** Since the last time it was asked. */
  takeLeases(): LeaseCount {
    const leases = this.#leases
    this.#leases = { count: 0, waited: 0, longestWait: 0, stalled: 0 }
    return leases
  }

  /** `2 running, 1 starting, 3 waiting for 1 CPU and 256 MiB: ...`; undefined while there are none. */
  guestLine(): string | undefined {
    const all = [...this.#guests.values()]
    if (all.length === 0) return undefined
    const parts = (['running', 'starting', 'waiting'] as const).flatMap((state) => {
      const some = all.filter((guest) => guest.state === state)
      if (some.length === 0) return []
      const why = state === 'waiting' && some[0]?.detail ? ` for ${some[0].detail}` : ''
      const oldest = Math.min(...some.map(({ since }) => since))
      const slow = state === 'starting' ? slowness(oldest) : ''
      return [`${some.length} ${state}${slow}${why}`]
    })
    return parts.join(', ')
  }

  /** `lab:debian:6.12-cloud#1 starting 3 s`; undefined while there are none. */
  labLine(): string | undefined {
    if (this.#labs.size === 0) return undefined
    return [...this.#labs]
      .map(([name, { state, since }]) => (state === 'starting' ? `${name} starting${slowness(since)}` : name))
      .join(', ')
  }

  #onGuest({ key, guest, state, detail, isStalled }: GuestEvent): void {
    const now = performance.now()
    const before = this.#guests.get(key)
    // Whoever takes the budget over tells everything again.
    if (before?.state === state) return
    const took = before ? now - before.since : 0
    if (state === 'ended') this.#guests.delete(key)
    else this.#guests.set(key, { name: guest, state, since: now, ...(detail ? { detail } : {}) })
    if (isStalled) this.#leases.stalled++
    if (state === 'starting' && before?.state !== 'running') this.#count(before ? took : undefined)
    if (!this.#hasEvents) return
    const after = state === 'running' && before ? `after ${seconds(took)}` : undefined
    this.#print(`kvitest  guest ${guest} ${[words[state], detail ?? after].filter(Boolean).join(' ')}`)
  }

  #count(waited: number | undefined): void {
    this.#leases.count++
    if (waited === undefined) return
    this.#leases.waited++
    this.#leases.longestWait = Math.max(this.#leases.longestWait, waited)
  }
}

/** Only what takes long is worth a figure. */
function slowness(since: number): string {
  const passed = performance.now() - since
  return passed < 2000 ? '' : ` ${Math.floor(passed / 1000)} s`
}

function seconds(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(1)} s`
}
