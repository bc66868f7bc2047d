import { availableParallelism } from 'node:os'
import { resolveKernel } from '../../image/resolve.ts'
import { KvitestError } from '../../native/error.ts'
import { memoryAvailable, parseSize } from '../memory.ts'
import { Lab, type LabSession, type SessionReceiver } from './lab.ts'
import { type PlaceRequest, placeFor } from './placement.ts'
import type { LabAccelerator } from './qemu.ts'

export interface PoolOptions {
  /** Labs of one kernel at most. Default: the cores under TCG, one with nesting. KVITEST_LABS overrides it. */
  labs?: number
  /** Bytes of one lab. KVITEST_LAB_MEMORY overrides it. */
  memory?: number
  /** How labs run here; asked for when the first one starts. */
  accelerator: () => Promise<LabAccelerator>
}

export interface Placement {
  lab: Lab
  session: LabSession
  /** Labs of this kernel at most. */
  labs: number
}

interface Place {
  starting: Promise<Lab>
  lab: Lab | undefined
  /** Keys of the checkpoints that sessions were sent there to fork: it has them, or is making them. */
  checkpoints: Set<string>
  /** vCPUs and bytes of the guests placed there. */
  cpus: number
  memory: number
}

function positiveInteger(name: string, text: string): number {
  const value = Number(text)
  if (Number.isInteger(value) && value > 0) return value
  throw new KvitestError(`read ${name}`, `${text}: not a positive whole number`, { code: 'EINVAL' })
}

/** Labs of one host kernel: started when needed, each guest put where there is least to do. */
export class LabPool {
  readonly #kernel: string
  readonly #options: PoolOptions
  readonly #places = new Set<Place>()
  #plan: Promise<{ accelerator: LabAccelerator; labs: number; memory: number }> | undefined
  #closed = false
  #started = 0
  /** The link of a lab has room again. */
  onDrain: (lab: Lab) => void = () => {}

  constructor(kernel: string, options: PoolOptions) {
    this.#kernel = kernel
    this.#options = options
  }

  /**
   * Opens a session in the least loaded lab; starts one more while all are in use and the cores allow it. A lab that
   * has the wanted checkpoint may be busier than one that must make it first.
   */
  async open(want: PlaceRequest, receiver: SessionReceiver): Promise<Placement> {
    this.#plan ??= this.#makePlan()
    const plan = await this.#plan
    if (this.#closed)
      throw new KvitestError('use a lab', 'the pool of labs was closed', { code: 'ECANCELED' })
    const place = want.lab === undefined ? this.#choose(plan.labs, want) : this.#named(want.lab)
    if (want.checkpoint !== undefined) place.checkpoints.add(want.checkpoint)
    place.cpus += want.cpus
    place.memory += want.memory
    const leave = () => {
      place.cpus -= want.cpus
      place.memory -= want.memory
    }
    let lab: Lab
    try {
      lab = await place.starting
    } catch (error) {
      leave()
      throw error
    }
    const session = lab.openSession(receiver)
    let isOpen = true
    return {
      lab,
      labs: plan.labs,
      session: {
        post: session.post,
        end: () => {
          if (isOpen) leave()
          isOpen = false
          session.end()
        },
      },
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    const labs = await Promise.allSettled([...this.#places].map((place) => place.starting))
    await Promise.all(
      labs.map((result) => (result.status === 'fulfilled' ? result.value.close() : undefined)),
    )
  }

  async #makePlan() {
    const accelerator = await this.#options.accelerator()
    const { KVITEST_LABS, KVITEST_LAB_MEMORY } = process.env
    const labs = KVITEST_LABS
      ? positiveInteger('KVITEST_LABS', KVITEST_LABS)
      : (this.#options.labs ?? (accelerator === 'tcg' ? availableParallelism() : 1))
    const share = (await memoryAvailable()) / 2 / labs
    const memory = KVITEST_LAB_MEMORY
      ? parseSize(KVITEST_LAB_MEMORY)
      : (this.#options.memory ?? Math.min(4 * 2 ** 30, Math.max(2 ** 30, share)))
    return { accelerator, labs, memory }
  }

  #named(name: string): Place {
    for (const place of this.#places) if (place.lab?.name === name) return place
    throw new KvitestError('use a lab', `${name} is gone`, {
      code: 'EPIPE',
      hint: 'what was saved there went with it: boot the guest again',
    })
  }

  #choose(limit: number, want: PlaceRequest): Place {
    return placeFor(this.#places, want, this.#places.size < limit) ?? this.#start()
  }

  #start(): Place {
    const place: Place = {
      starting: this.#boot(++this.#started),
      lab: undefined,
      checkpoints: new Set(),
      cpus: 0,
      memory: 0,
    }
    this.#places.add(place)
    place.starting.then(
      (lab) => {
        place.lab = lab
        lab.onDrain = () => this.onDrain(lab)
        // A dead lab takes no more guests; the next one that is needed is a new one.
        lab.ended.then(() => this.#places.delete(place))
      },
      () => this.#places.delete(place),
    )
    return place
  }

  async #boot(number: number): Promise<Lab> {
    const { accelerator, memory } = await this.#plan!
    return Lab.start({
      name: `lab:${this.#kernel}#${number}`,
      kernel: await resolveKernel(this.#kernel),
      accelerator,
      cpus: availableParallelism(),
      memory,
    })
  }
}
