import { randomUUID } from 'node:crypto'
import { availableParallelism } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { countOf, memoryAvailable } from '../../budget/capacity.ts'
import { gibibytes, parseSize } from '../../budget/memory.ts'
import { type Asker, type Beyond, WaitingLine, Waits } from '../../budget/waiting-line.ts'
import { resolveKernel } from '../../image/resolve.ts'
import { extractVmlinux } from '../../image/vmlinux.ts'
import { KvitestError } from '../../native/error.ts'
import { buildLabImage } from './image.ts'
import { Lab, type LabOptions, type LabSession, type SessionReceiver } from './lab.ts'
import { labKey } from './lab-key.ts'
import { type PlaceRequest, placeFor } from './placement.ts'
import type { LabAccelerator } from './qemu.ts'
import { labToSave, type SavedLabs } from './saved-lab.ts'
import { tscKhz } from './tsc.ts'

/** Something that a person waits for. */
export interface LabEvent {
  /** `lab:debian:6.12-cloud#1` */
  name: string
  /** `crowded`: it takes one more guest than it has room for, because nothing moved. */
  state: 'starting' | 'started' | 'restored' | 'crowded' | 'ended'
  /** How long it took; why it ended. */
  detail?: string
}

export interface PoolOptions {
  /** Labs of one kernel at most. Default: the cores under TCG, one with nesting. KVITEST_LABS overrides it. */
  labs?: number
  /** Bytes of one lab. KVITEST_LAB_MEMORY overrides it. */
  memory?: number
  /** How labs run here; asked for when the first one starts. */
  accelerator: () => Promise<LabAccelerator>
  /** Where labs are saved and restored from; none: every lab boots. */
  savedLabs?: SavedLabs
  onEvent?: (event: LabEvent) => void
}

/** How long the end of a run may wait for a lab to be saved; vitest gives its teardown ten seconds. */
const saveLimit = 15_000

/** Of a lab's memory, what its kernel, its files and Node take before any guest: no guest gets that. */
const labReserve = 384 * 2 ** 20
/** Below this hardly any guest has room beside that. */
const leastMemory = 768 * 2 ** 20
/** What Node and the page tables of guests need beside them, as the server in the lab reckons it. */
const workSpace = 192 * 2 ** 20

/** Guests touch a part of their memory, and forks of one checkpoint share the most of that. */
const roomOvercommit = 4

export interface Placement {
  lab: Lab
  session: LabSession
  /** Labs of this kernel at most. */
  labs: number
}

type PreparedLab = Omit<LabOptions, 'name'> & { key: string }

export interface OpenOptions {
  /** On whose behalf; default: nobody else's. */
  holder?: string
  within?: string
  /** Called when there is no room now, with one line that says for what it waits. */
  onWaiting?: (what: string) => void
  /** Gives the place up. */
  signal?: AbortSignal
}

interface LabPlan {
  accelerator: LabAccelerator
  labs: number
  /** Bytes of one lab. */
  memory: number
}

interface Place {
  starting: Promise<Lab>
  lab: Lab | undefined
  /** Keys of the checkpoints that it has or is making; until it has started, those too that it is expected to begin with. */
  checkpoints: Set<string>
  /** Keys of those that sessions were sent there to fork. */
  asked: Set<string>
  /** vCPUs and bytes of the guests placed there. */
  cpus: number
  memory: number
  /** Bytes that guests may take there: a guess until it has started. */
  room: number
}

/** A session that wants a place. */
interface Asking extends Asker {
  want: PlaceRequest
  placed: PromiseWithResolvers<Place>
  place: Place | undefined
}

/** Labs of one host kernel: started when needed, each guest put where there is least to do. */
export class LabPool {
  readonly #kernel: string
  readonly #options: PoolOptions
  readonly #places = new Set<Place>()
  readonly #line: WaitingLine<Asking>
  #plan: Promise<LabPlan> | undefined
  #planned: LabPlan | undefined
  /** What a lab of this pool has said it has for guests. */
  #room: number | undefined
  #prepared: Promise<PreparedLab> | undefined
  /** Checkpoints that the last lab had from the start: the next one is of the same saved lab, as long as that is there. */
  #saved: ReadonlySet<string> = new Set()
  #closed = false
  #started = 0
  #sessions = 0
  /** The link of a lab has room again. */
  onDrain: (lab: Lab) => void = () => {}

  /** `waits`: of all pools that the same holders use. */
  constructor(kernel: string, options: PoolOptions, waits = new Waits()) {
    this.#kernel = kernel
    this.#options = options
    this.#line = new WaitingLine((asking, beyond) => this.#offer(asking, beyond), waits)
  }

  /**
   * Opens a session in the least loaded lab that has room for its guest; starts one more while all are in use and the
   * cores allow it. A lab that has the wanted checkpoint may be busier than one that must make it first. Where there is
   * no room the session waits in line. Rejects with ENOMEM what fits into no lab.
   */
  async open(want: PlaceRequest, receiver: SessionReceiver, options: OpenOptions = {}): Promise<Placement> {
    this.#plan ??= this.#makePlan()
    const plan = await this.#plan
    this.#planned = plan
    if (this.#closed)
      throw new KvitestError('use a lab', 'the pool of labs was closed', { code: 'ECANCELED' })
    const asking: Asking = {
      holder: options.holder ?? randomUUID(),
      ...(options.within === undefined ? {} : { within: options.within }),
      want,
      placed: Promise.withResolvers<Place>(),
      place: undefined,
    }
    asking.placed.promise.catch(() => {})
    this.#sessions++
    let hasLeft = false
    const leave = () => {
      if (!hasLeft) this.#sessions--
      hasLeft = true
      this.#leave(asking)
    }
    options.signal?.addEventListener('abort', leave)
    let lab: Lab
    try {
      this.#ask(asking, plan)
      if (!asking.place) options.onWaiting?.(this.#describe(asking))
      lab = await (await asking.placed.promise).starting
    } catch (error) {
      leave()
      throw error
    } finally {
      options.signal?.removeEventListener('abort', leave)
    }
    const session = lab.openSession(receiver)
    return {
      lab,
      labs: plan.labs,
      session: {
        post: session.post,
        end: () => {
          leave()
          session.end()
        },
      },
    }
  }

  /** It has labs, and nobody uses them. */
  get isIdle(): boolean {
    return this.#sessions === 0 && this.#places.size > 0
  }

  get hasLabs(): boolean {
    return this.#places.size > 0
  }

  /** Somebody who holds a place here has begun to wait, or does no longer. */
  advance(): void {
    this.#line.advance()
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
    const { key } = (await this.#prepared?.catch(() => undefined)) ?? {}
    if (!key) return
    const asked = await Promise.all(labs.map(async (lab) => ({ lab, status: await lab.idleStatus() })))
    const most = labToSave(asked, await store.manifest(key))
    if (!most) return
    const limit = new AbortController()
    const saving = store.save(key, {
      kernel: this.#kernel,
      contents: most.status!.contents,
      write: (directory, room) => most.lab.save(directory, { signal: limit.signal, beforeWriting: room }),
    })
    // Whatever else it waits for (a lock, QEMU) fails when the lab is closed.
    await Promise.race([saving, sleep(saveLimit, undefined, { ref: false })])
    limit.abort(
      new KvitestError('save a lab', `not done within ${saveLimit / 1000} s`, { code: 'ETIMEDOUT' }),
    )
  }

  async #makePlan(): Promise<LabPlan> {
    const accelerator = await this.#options.accelerator()
    const { KVITEST_LABS, KVITEST_LAB_MEMORY } = process.env
    const labs = KVITEST_LABS
      ? countOf('KVITEST_LABS', KVITEST_LABS)
      : (this.#options.labs ?? (accelerator === 'tcg' ? availableParallelism() : 1))
    const share = memoryAvailable() / 2 / labs
    const memory = KVITEST_LAB_MEMORY
      ? parseSize(KVITEST_LAB_MEMORY)
      : (this.#options.memory ?? powerOfTwo(Math.min(4 * 2 ** 30, Math.max(2 ** 30, share))))
    if (memory < leastMemory) {
      throw new KvitestError(
        'start a lab',
        `${gibibytes(memory)} of memory, and it needs ${gibibytes(leastMemory)} at least`,
        { code: 'EINVAL', hint: 'set KVITEST_LAB_MEMORY to more' },
      )
    }
    return { accelerator, labs, memory: Math.floor(memory / 2 ** 20) * 2 ** 20 }
  }

  #ask(asking: Asking, plan: LabPlan): void {
    const { want } = asking
    const most = (plan.memory - labReserve) * roomOvercommit
    if (want.memory > most) {
      throw new KvitestError(
        'use a lab',
        `a guest of ${gibibytes(want.memory)} in a lab of ${gibibytes(plan.memory)}, which has at most ${gibibytes(most)} for one`,
        {
          code: 'ENOMEM',
          hint: 'give the guest less memory, or the labs more with KVITEST_LAB_MEMORY',
          infra: false,
        },
      )
    }
    const isFree = want.cpus === 0 && want.memory === 0
    // Who only asks a question, or brings no machine, takes nothing. Who wants one lab only goes on from something that
    // is there: it waits for nobody who may go elsewhere.
    if (isFree || want.lab !== undefined) {
      this.#place(asking, this.#find(want, plan, () => true)!)
      if (!isFree) this.#line.adopt(asking)
    } else this.#line.ask(asking)
  }

  /** Called by the line; throws for nobody but the one who asks. */
  #offer(asking: Asking, beyond: Beyond): boolean {
    const { want } = asking
    const plan = this.#planned!
    const fits = ({ memory, room }: Place) =>
      beyond !== undefined || memory === 0 || memory + want.memory <= room * roomOvercommit
    try {
      const place = this.#find(want, plan, fits)
      if (place) this.#place(asking, place)
      if (place && beyond === 'stall') {
        const name = place.lab?.name ?? `lab:${this.#kernel}`
        this.#options.onEvent?.({ name, state: 'crowded', detail: 'beyond its room: nothing moved any more' })
      }
      return place !== undefined
    } catch (error) {
      asking.placed.reject(error)
      return true
    }
  }

  #find(want: PlaceRequest, plan: LabPlan, fits: (place: Place) => boolean): Place | undefined {
    if (want.lab !== undefined) {
      const place = this.#named(want.lab)
      return fits(place) ? place : undefined
    }
    const another = this.#places.size < plan.labs ? { checkpoints: this.#saved } : undefined
    const found = placeFor([...this.#places].filter(fits), want, another)
    return found ?? (another && this.#start())
  }

  #place(asking: Asking, place: Place): void {
    const { checkpoint, cpus, memory } = asking.want
    if (checkpoint !== undefined) {
      place.asked.add(checkpoint)
      place.checkpoints.add(checkpoint)
    }
    asking.place = place
    place.cpus += cpus
    place.memory += memory
    asking.placed.resolve(place)
  }

  #leave(asking: Asking): void {
    const { place, want } = asking
    asking.place = undefined
    if (place) {
      place.cpus -= want.cpus
      place.memory -= want.memory
    }
    this.#line.leave(asking)
    asking.placed.reject(new KvitestError('use a lab', 'the session was closed', { code: 'ECANCELED' }))
  }

  /** One line for who waits. */
  #describe({ want }: Asking): string {
    const labs = [...this.#places].map(
      ({ memory, room, lab }) =>
        `${lab?.name ?? 'one that is starting'} has ${gibibytes(memory)} of ${gibibytes(room)} taken`,
    )
    return `${gibibytes(want.memory)} in a lab: ${labs.join(', ')}`
  }

  #named(name: string): Place {
    for (const place of this.#places) if (place.lab?.name === name) return place
    throw new KvitestError('use a lab', `${name} is gone`, {
      code: 'EPIPE',
      hint: 'what was saved there went with it: boot the guest again',
    })
  }

  #start(): Place {
    const place: Place = {
      starting: this.#boot(++this.#started),
      lab: undefined,
      checkpoints: new Set(this.#saved),
      asked: new Set(),
      cpus: 0,
      memory: 0,
      room: this.#room ?? Math.max(0, (this.#planned!.memory - labReserve) / 2 - workSpace),
    }
    this.#places.add(place)
    const gone = () => {
      this.#places.delete(place)
      this.#line.advance()
    }
    place.starting.then((lab) => {
      place.lab = lab
      place.room = lab.description.memory
      this.#saved = new Set(lab.restoredCheckpoints)
      // One that booted after all, because what was saved did not work, has none of the expected ones.
      place.checkpoints = new Set([...place.asked, ...lab.restoredCheckpoints])
      lab.onDrain = () => this.onDrain(lab)
      // A dead lab takes no more guests; the next one that is needed is a new one.
      lab.ended.then(gone)
      this.#line.advance()
    }, gone)
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
    const name = `lab:${this.#kernel}#${number}`
    const options = { ...parts, name }
    const { onEvent = () => {} } = this.#options
    const began = performance.now()
    onEvent({ name, state: 'starting' })
    try {
      const restored = await this.#restore(key, options)
      const lab = restored ?? (await Lab.start(options))
      const detail = `in ${((performance.now() - began) / 1000).toFixed(1)} s`
      onEvent({ name, state: restored ? 'restored' : 'started', detail })
      lab.ended.then(({ code, message }) => {
        // Who closed it knows.
        onEvent({ name, state: 'ended', ...(code === 'ECANCELED' ? {} : { detail: message }) })
      })
      return lab
    } catch (error) {
      onEvent({ name, state: 'ended', detail: (error as Error).message })
      throw error
    }
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
