import { availableParallelism } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { memoryAvailable } from '../../budget/capacity.ts'
import { parseSize } from '../../budget/memory.ts'
import { resolveKernel } from '../../image/resolve.ts'
import { extractVmlinux } from '../../image/vmlinux.ts'
import { KvitestError } from '../../native/error.ts'
import { buildLabImage } from './image.ts'
import { Lab, type LabOptions, type LabSession, type SessionReceiver } from './lab.ts'
import { labKey } from './lab-key.ts'
import { type PlaceRequest, placeFor } from './placement.ts'
import type { LabAccelerator } from './qemu.ts'
import type { SavedLabs } from './saved-lab.ts'
import { tscKhz } from './tsc.ts'

export interface PoolOptions {
  /** Labs of one kernel at most. Default: the cores under TCG, one with nesting. KVITEST_LABS overrides it. */
  labs?: number
  /** Bytes of one lab. KVITEST_LAB_MEMORY overrides it. */
  memory?: number
  /** How labs run here; asked for when the first one starts. */
  accelerator: () => Promise<LabAccelerator>
  /** Where labs are saved and restored from; none: every lab boots. */
  savedLabs?: SavedLabs
}

/** How long the end of a run may wait for a lab to be saved; vitest gives its teardown ten seconds. */
const saveLimit = 15_000

export interface Placement {
  lab: Lab
  session: LabSession
  /** Labs of this kernel at most. */
  labs: number
}

type PreparedLab = Omit<LabOptions, 'name'> & { key: string }

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
  #prepared: Promise<PreparedLab> | undefined
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

  /** Ends every lab; with `save` the one that holds most is saved first, if it holds what the saved one does not. */
  async close({ save = false } = {}): Promise<void> {
    this.#closed = true
    const results = await Promise.allSettled([...this.#places].map((place) => place.starting))
    const labs = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
    if (save && this.#options.savedLabs) await this.#save(this.#options.savedLabs, labs)
    await Promise.all(labs.map((lab) => lab.close()))
  }

  async #save(store: SavedLabs, labs: readonly Lab[]): Promise<void> {
    const candidates = (
      await Promise.all(
        labs.map(async (lab) => {
          const status = await lab.idleStatus()
          // A kernel that has complained is not what the next run wants to begin with.
          return status && !status.isTainted ? [{ lab, contents: status.contents }] : []
        }),
      )
    ).flat()
    const most = candidates.sort((a, b) => b.contents.length - a.contents.length)[0]
    const { key } = (await this.#prepared?.catch(() => undefined)) ?? {}
    if (!most || !key) return
    const before = await store.manifest(key)
    if (before && most.contents.every((name) => before.contents.includes(name))) return
    const limit = new AbortController()
    const saving = store.save(key, {
      kernel: this.#kernel,
      contents: most.contents,
      write: (directory, room) => most.lab.save(directory, { signal: limit.signal, beforeWriting: room }),
    })
    // Whatever else it waits for (a lock, QEMU) fails when the lab is closed.
    await Promise.race([saving, sleep(saveLimit, undefined, { ref: false })])
    limit.abort(
      new KvitestError('save a lab', `not done within ${saveLimit / 1000} s`, { code: 'ETIMEDOUT' }),
    )
  }

  async #makePlan() {
    const accelerator = await this.#options.accelerator()
    const { KVITEST_LABS, KVITEST_LAB_MEMORY } = process.env
    const labs = KVITEST_LABS
      ? positiveInteger('KVITEST_LABS', KVITEST_LABS)
      : (this.#options.labs ?? (accelerator === 'tcg' ? availableParallelism() : 1))
    const share = memoryAvailable() / 2 / labs
    const memory = KVITEST_LAB_MEMORY
      ? parseSize(KVITEST_LAB_MEMORY)
      : (this.#options.memory ?? powerOfTwo(Math.min(4 * 2 ** 30, Math.max(2 ** 30, share))))
    return { accelerator, labs, memory: Math.floor(memory / 2 ** 20) * 2 ** 20 }
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
        for (const key of lab.restoredCheckpoints) place.checkpoints.add(key)
        lab.onDrain = () => this.onDrain(lab)
        // A dead lab takes no more guests; the next one that is needed is a new one.
        lab.ended.then(() => this.#places.delete(place))
      },
      () => this.#places.delete(place),
    )
    return place
  }

  /** What every lab of this pool is made from. */
  async #prepare(): Promise<PreparedLab> {
    const { accelerator, memory } = await this.#plan!
    const kernel = await resolveKernel(this.#kernel)
    const parts = {
      vmlinux: await extractVmlinux(kernel.image),
      initramfs: await buildLabImage(kernel),
      accelerator,
      cpus: availableParallelism(),
      memory,
      tscKhz: await tscKhz(),
    }
    return { ...parts, key: await labKey({ ...parts, image: kernel.image }) }
  }

  async #boot(number: number): Promise<Lab> {
    this.#prepared ??= this.#prepare()
    this.#prepared.catch(() => {
      this.#prepared = undefined // the next lab tries again
    })
    const { key, ...parts } = await this.#prepared
    const options = { ...parts, name: `lab:${this.#kernel}#${number}` }
    return (await this.#restore(key, options)) ?? Lab.start(options)
  }

  /** Undefined where there is no saved lab, or none that works: that one is gone then. */
  async #restore(key: string, options: LabOptions): Promise<Lab | undefined> {
    const store = this.#options.savedLabs
    const saved = await store?.open(key)
    if (!store || !saved) return undefined
    try {
      return await Lab.start({ ...options, saved })
    } catch (error) {
      await store.drop(key, this.#kernel, (error as Error).message, saved.manifest)
      return undefined
    } finally {
      await saved.close()
    }
  }
}

/** Sizes that differ a little from run to run would make every saved lab useless. */
function powerOfTwo(bytes: number): number {
  return 2 ** Math.floor(Math.log2(bytes))
}
