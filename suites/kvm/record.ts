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
    if (call.do === 'run') this.#noteRun(this.#kinds.get(call.vcpu) ?? 'other', result)
    if (call.do !== 'ioctl') return
    const kind = this.#kinds.get(call.fd) ?? 'other'
    if (result.madeFd) this.#kinds.set(call.as!, makes.get(call.request) ?? 'other')
    if (result.hung || result.expired) return
    const names = catalogue.ioctlsByRequest(call.request).filter(({ arch }) => isX86(arch))
    for (const { name } of names)
      for (const outcome of outcomesOf(result)) this.#calls.add(`${kind} ${name} ${outcome}`)
  }

  #noteRun(kind: Kind, result: Result): void {
    for (const outcome of outcomesOf(result)) this.#calls.add(`${kind} KVM_RUN ${outcome}`)
    const { data, errno } = result
    if (!data) return
    const value = new DataView(data.buffer, data.byteOffset).getUint32(exitReason, true)
    const exit = catalogue.exitReasonByValue(value)?.name
    // With another errno it is what the run before left there.
    if (exit && (errno === undefined || (errno === 'EINTR' && exit === 'KVM_EXIT_INTR')))
      this.#exits.add(exit)
  }
}

export function isX86(arch: readonly string[]): boolean {
  return arch.length === 0 || arch.includes('x86') || arch.includes('all')
}

function outcomesOf(result: Result): string[] {
  return Object.keys(result.outcomes ?? { [result.errno ?? 'ok']: 1 })
}
