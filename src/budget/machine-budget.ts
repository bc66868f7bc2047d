import type { Capacity } from './capacity.ts'
import { gibibytes } from './memory.ts'
import { type Asker, type Beyond, WaitingLine, Waits } from './waiting-line.ts'

/** One guest that wants to run, or runs. */
export interface LeaseRequest extends Asker {
  /** Name of the guest, for people. */
  readonly guest: string
  readonly cpus: number
  /** Bytes. */
  readonly memory: number
  /** Which run it belongs to, for people. */
  readonly run: string
}

/** The parts of a KvitestError. */
export interface Refusal {
  operation: string
  detail: string
  hint: string
}

/**
 * What one machine can give to guests, and who has it. Three things are counted: vCPUs, bytes, and guests that start,
 * which are the heavy ones. Guests get them in the order in which they asked; the rules beyond that are WaitingLine's.
 * A guest with more vCPUs than there are runs when no other does.
 */
export class MachineBudget {
  readonly #line: WaitingLine<LeaseRequest>
  readonly #waits = new Waits()
  readonly #starting = new Set<LeaseRequest>()
  /** Holders that wait for something else. */
  readonly #blocked = new Set<string>()
  readonly #onGranted: (request: LeaseRequest, beyond: Beyond) => void
  #capacity: Capacity
  #isOpen = true

  constructor(capacity: Capacity, onGranted: (request: LeaseRequest, beyond: Beyond) => void) {
    this.#capacity = capacity
    this.#onGranted = onGranted
    this.#line = new WaitingLine((request, beyond) => this.#offer(request, beyond), this.#waits)
    this.#waits.onChange = () => this.#line.advance()
  }

  get capacity(): Capacity {
    return this.#capacity
  }

  set capacity(capacity: Capacity) {
    this.#capacity = capacity
    this.#line.advance()
  }

  /** While it is closed nothing is granted. */
  set isOpen(isOpen: boolean) {
    this.#isOpen = isOpen
    this.#line.advance()
  }

  get waiting(): readonly LeaseRequest[] {
    return this.#line.waiting
  }

  get granted(): ReadonlySet<LeaseRequest> {
    return this.#line.granted
  }

  /** What can never be granted is refused, and not asked for. */
  ask(request: LeaseRequest): Refusal | undefined {
    const { guest, memory } = request
    if (memory > this.#capacity.memory) {
      const all = gibibytes(this.#capacity.memory)
      return {
        operation: `start ${guest}`,
        detail: `it takes ${gibibytes(memory)}, and all guests together may take ${all}`,
        hint: 'give it less memory, or say what there is with KVITEST_BUDGET_MEMORY',
      }
    }
    this.#line.ask(request)
    return undefined
  }

  /** It was granted before, by whoever kept the budget then. */
  adopt(request: LeaseRequest, isStarting: boolean): void {
    if (isStarting) this.#starting.add(request)
    this.#line.adopt(request)
  }

  /** The guest runs: another may start. */
  started(request: LeaseRequest): void {
    if (!this.#starting.delete(request)) return
    this.#line.moved()
    this.#line.advance()
  }

  /** Gives it back, or asks no more. */
  leave(request: LeaseRequest): void {
    this.#starting.delete(request)
    this.#line.leave(request)
  }

  /** The holder waits for something that is not the budget's, such as room in a lab; or no longer does. */
  setBlocked(holder: string, isBlocked: boolean): void {
    if (isBlocked) this.#blocked.add(holder)
    else this.#blocked.delete(holder)
    if (isBlocked) this.#waits.begin({ holder })
    else this.#waits.end({ holder })
  }

  stateOf(request: LeaseRequest): 'waiting' | 'starting' | 'running' {
    if (!this.#line.granted.has(request)) return 'waiting'
    return this.#starting.has(request) ? 'starting' : 'running'
  }

  /** One line for whoever waits. */
  describe(request: LeaseRequest): string {
    const { granted } = this.#line
    const runs = new Set([...granted].map(({ run }) => run)).size
    const ahead = this.waiting.indexOf(request)
    const used = this.#used()
    const { cpus, memory, starts } = this.#capacity
    const held =
      `${plural(granted.size, 'guest')} of ${plural(runs, 'run')} hold ${used.cpus} of ${plural(cpus, 'CPU')} and ` +
      `${gibibytes(used.memory)} of ${gibibytes(memory)}, ${used.starts} of ${starts} at a time are starting`
    const before = ahead > 0 ? `; ${plural(ahead, 'guest')} asked before` : ''
    return `${plural(request.cpus, 'CPU')} and ${gibibytes(request.memory)}: ${held}${before}`
  }

  #used(): { cpus: number; memory: number; starts: number } {
    const used = { cpus: 0, memory: 0, starts: this.#starting.size }
    for (const { cpus, memory } of this.#line.granted) {
      used.cpus += cpus
      used.memory += memory
    }
    return used
  }

  #offer(request: LeaseRequest, beyond: Beyond): boolean {
    if (!this.#isOpen) return false
    const used = this.#used()
    const { cpus, memory, starts } = this.#capacity
    const fits =
      used.cpus + request.cpus <= cpus && used.memory + request.memory <= memory && used.starts < starts
    // A guest that starts will have started, and then the next one may: nothing is stuck.
    if (beyond === 'deadlock' && [...this.#starting].some(({ holder }) => !this.#blocked.has(holder)))
      return false
    if (!fits && !beyond && this.#line.granted.size > 0) return false
    this.#starting.add(request)
    this.#onGranted(request, fits ? undefined : beyond)
    return true
  }
}

function plural(count: number, word: string): string {
  return `${count} ${word}${count === 1 ? '' : 's'}`
}
