import { catalogue, KVM, type RawKvm, type RawStep } from 'kvitest'

type Steps = RawStep[]
type Results = Awaited<ReturnType<RawKvm['batch']>>
type Call = Exclude<RawStep, unknown[]>
type Result = Results[number]

/** What kind of fd a call was made on; `other` for one that is none of KVM's. */
export type Kind = 'sys' | 'vm' | 'vcpu' | 'dev' | 'stats' | 'other'

/** What the calls of one check came to, each once. */
export interface Done {
  /** `vcpu KVM_SET_REGS ok`, `vm KVM_CREATE_VCPU EEXIST` */
  calls: string[]
  /** Exit reasons that KVM_RUN returned with: `KVM_EXIT_IO`. */
  exits: string[]
}

const makes = new Map<number, Kind>([
  [KVM.CREATE_VM, 'vm'],
  [KVM.CREATE_VCPU, 'vcpu'],
  [KVM.CREATE_DEVICE, 'dev'],
  [KVM.GET_STATS_FD, 'stats'],
])

/** Offset of exit_reason in struct kvm_run. */
const exitReason = catalogue.field('kvm_run', 'exit_reason')[0]

/** Stands between a session and its place and notes what really came back. */
export class Recorder {
  readonly #kvm: RawKvm
  readonly #kinds = new Map<number, Kind>()
  /** exit_reason after the last run, by the handle of the vCPU. */
  readonly #lastExits = new Map<number, number>()
  #calls = new Set<string>()
  #exits = new Set<string>()

  constructor(kvm: RawKvm) {
    this.#kvm = kvm
  }

  async batch(steps: Steps): Promise<Results> {
    const results = await this.#kvm.batch(steps)
    for (const [i, call] of steps.flat().entries()) this.#note(call, results[i]!)
    return results
  }

  close(): Promise<void> {
    return this.#kvm.end()
  }

  /** What was noted since the last time. */
  take(): Done {
    const done = { calls: [...this.#calls], exits: [...this.#exits] }
    this.#calls = new Set()
    this.#exits = new Set()
    return done
  }

  #note(call: Call, result: Result): void {
    if (call.do === 'open' && result.madeFd)
      this.#kinds.set(call.as, call.path === '/dev/kvm' ? 'sys' : 'other')
    if (call.do === 'run') this.#noteRun(call, result)
    if (call.do !== 'ioctl') return
    const kind = this.#kindOf(call)
    if (result.madeFd) this.#kinds.set(call.as!, makes.get(call.request) ?? 'other')
    if (result.hung || result.expired) return
    const names = catalogue.ioctlsByRequest(call.request).filter(({ arch }) => isX86(arch))
    for (const { name } of names)
      for (const outcome of outcomesOf(result)) this.#calls.add(`${kind} ${name} ${outcome}`)
  }

  /** What the request was made on: of a child perhaps what it made itself. */
  #kindOf({ fd, inChild }: Call & { do: 'ioctl' }): Kind {
    const first = typeof inChild === 'object' ? inChild.first : undefined
    return (first === undefined ? this.#kinds.get(fd) : makes.get(first)) ?? 'other'
  }

  #noteRun({ vcpu }: Call & { do: 'run' }, result: Result): void {
    const kind = this.#kinds.get(vcpu) ?? 'other'
    for (const outcome of outcomesOf(result)) this.#calls.add(`${kind} KVM_RUN ${outcome}`)
    const { data, errno } = result
    if (!data) return
    const value = new DataView(data.buffer, data.byteOffset).getUint32(exitReason, true)
    const before = this.#lastExits.get(vcpu) ?? 0
    this.#lastExits.set(vcpu, value)
    const exit = catalogue.exitReasonByValue(value)?.name
    // With an errno it may be what the run before left there.
    const isNew = errno === 'EINTR' ? exit === 'KVM_EXIT_INTR' : value !== before
    if (exit && (errno === undefined || isNew)) this.#exits.add(exit)
  }
}

export function isX86(arch: readonly string[]): boolean {
  return arch.length === 0 || arch.includes('x86') || arch.includes('all')
}

function outcomesOf(result: Result): string[] {
  return Object.keys(result.outcomes ?? { [result.errno ?? 'ok']: 1 })
}
