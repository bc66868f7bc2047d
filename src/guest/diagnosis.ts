import { setTimeout as sleep } from 'node:timers/promises'
import type { HostMachine } from '../host/machine-host.ts'
import type { VcpuState } from '../native/contract.ts'
import type { VcpuEvidence } from '../verdict/judge.ts'
import type { SerialLog } from './console-log.ts'
import type { SymbolSource, SymbolTable } from './symbols.ts'

/** What can be said of a guest that says nothing any more. */
export interface Diagnosis {
  vcpus: VcpuEvidence[]
  /** For the evidence, an entry each: what was asked and what came back, and why names are missing. */
  findings: string[]
}

export interface DiagnosisSubject {
  machine: HostMachine
  console: SerialLog
  symbols: SymbolSource | undefined
}

/** Times in milliseconds: they bound what a diagnosis takes, never what a guest ends as. */
const sampleCount = 6
const sampleGap = 120
const inspectLimit = 2000
const symbolLimit = 30_000
/**
 * Until the kernel begins to answer, until its answer pauses, and for all of it. On a busy machine a report stops in its
 * midst for more than a second; one that ends in a panic ends the guest, which is not waited for in vain.
 */
const answerBegins = 8000
const answerPauses = { break: 2000, nmi: 5000 } as const
const answerLimit = 12_000

/** A loop of so few bytes of code stays where it is. */
const spinBytes = 64n
/** Of the samples, in one place: it spins there. */
const spinShare = 2 / 3
const maxAnswerLines = 150

const breakKeys = { l: 'back traces of its CPUs', w: 'tasks that are blocked' } as const

/**
 * Samples what the vCPUs do, then asks the kernel: by a break and a system request on its serial line when a vCPU takes
 * interrupts, else by an NMI with an I/O channel check, after which kernel.panic_on_io_nmi makes it panic with its back
 * trace. Never rejects; bounded in time whatever the guest does. The guest is good for nothing afterwards.
 */
export async function diagnose(subject: DiagnosisSubject): Promise<Diagnosis> {
  const samples = await sample(subject.machine)
  const naming = namesOf(subject.symbols)
  const answers = await askKernel(subject, samples.at(-1) ?? [])
  const { table, problem } = await naming
  const spoken = placesIn(answers.flatMap(({ lines }) => lines))
  const vcpus = (samples.at(-1) ?? []).map((last, at) => {
    const history = samples.map((states) => states[at]!)
    return describe(last, history, table, spoken.get(last.index))
  })
  return { vcpus, findings: [...answers.map(findingOf), ...(problem === undefined ? [] : [problem])] }
}

/** Whether every vCPU halts or spins where it is: a boot that is merely quiet does not. */
export async function standsStill(machine: HostMachine): Promise<boolean> {
  const samples = await sample(machine)
  if (samples.length < sampleCount) return false
  return samples[0]!.every((_, at) => {
    const history = samples.map((states) => states[at]!)
    return history.every(isHalted) || together(history, undefined).length === history.length
  })
}

async function sample(machine: HostMachine): Promise<VcpuState[][]> {
  const samples: VcpuState[][] = []
  for (let count = 0; count < sampleCount; count++) {
    if (count > 0) await sleep(sampleGap)
    const states = await within(inspectLimit, machine.inspect())
    if (!states) break
    samples.push(states)
  }
  return samples
}

async function namesOf(
  symbols: SymbolSource | undefined,
): Promise<{ table?: SymbolTable; problem?: string }> {
  if (!symbols) return { problem: 'no names for addresses: the guest was booted, not forked' }
  let reason = `not within ${symbolLimit / 1000} s`
  const asked = symbols().catch((error: Error) => {
    reason = error.message
    return undefined
  })
  const table = await within(symbolLimit, asked)
  return table ? { table } : { problem: `no names for addresses: ${reason}` }
}

interface Answer {
  question: string
  lines: string[]
}

async function askKernel(subject: DiagnosisSubject, states: VcpuState[]): Promise<Answer[]> {
  const answers: Answer[] = []
  const ask = async (by: keyof typeof answerPauses, question: string, act: () => Promise<unknown>) => {
    const answer = { question, lines: await answerTo(subject, question, act, answerPauses[by]) }
    answers.push(answer)
    return answer.lines.length > 0
  }
  const { machine } = subject
  if (states.some(({ interruptsEnabled }) => interruptsEnabled)) {
    for (const [key, meaning] of Object.entries(breakKeys)) {
      const heard = await ask('break', `a break and '${key}' on its console, for ${meaning}`, async () => {
        await machine.sendBreak()
        // Not awaited: a guest that does not read its console never takes it.
        machine.write('serial', Buffer.from(key)).catch(() => {})
      })
      if (!heard) break
    }
    if (answers.some(({ lines }) => lines.length > 0)) return answers
  }
  const deaf = states.find(({ interruptsEnabled }) => !interruptsEnabled)?.index ?? 0
  await ask('nmi', `an NMI to vCPU ${deaf}, for its registers and its panic`, () =>
    machine.nmi({ vcpu: deaf, ioCheck: true }),
  )
  return answers
}

/** What the console shows once something was done, until it pauses or the guest ends. */
async function answerTo(
  { machine, console }: DiagnosisSubject,
  question: string,
  act: () => Promise<unknown>,
  pause: number,
): Promise<string[]> {
  const lines: string[] = []
  let last = performance.now()
  console.note(`-- kvitest asks the kernel: ${question} --`)
  const forget = console.onLine((line) => {
    lines.push(line)
    last = performance.now()
  })
  let isOver = false
  machine.ended.then(
    () => (isOver = true),
    () => (isOver = true),
  )
  const asked = performance.now()
  try {
    const isTold = await within(
      inspectLimit,
      act().then(() => true),
    )
    while (isTold && !isOver && performance.now() - asked < answerLimit) {
      if (performance.now() - last > (lines.length > 0 ? pause : answerBegins)) break
      await sleep(20)
    }
  } finally {
    forget()
    console.note('-- kvitest asked no more --')
  }
  return lines
}

/** The value, or undefined when it fails or takes longer than `milliseconds`. */
async function within<T>(milliseconds: number, work: Promise<T>): Promise<T | undefined> {
  const late = Promise.withResolvers<undefined>()
  const timer = setTimeout(() => late.resolve(undefined), milliseconds)
  try {
    return await Promise.race([work.catch(() => undefined), late.promise])
  } finally {
    clearTimeout(timer)
  }
}

const ripOf = ({ registers }: VcpuState) => BigInt(registers.rip ?? 0)

/** The samples that are in one place, the most that agree: within one function, or a few bytes of code. */
function together(history: VcpuState[], table: SymbolTable | undefined): VcpuState[] {
  const functionOf = (state: VcpuState) => table?.find(ripOf(state))?.replace(/\+0x\w+/, '')
  const near = (one: VcpuState, other: VcpuState) => {
    const distance = ripOf(one) - ripOf(other)
    const name = functionOf(one)
    return (distance <= spinBytes && distance >= -spinBytes) || (name && name === functionOf(other))
  }
  const groups = history.map((one) => history.filter((other) => near(one, other)))
  return groups.reduce((most, group) => (group.length > most.length ? group : most), [])
}

function isHalted({ mpState }: VcpuState): boolean {
  return mpState !== undefined && mpState !== 'runnable'
}

function describe(
  last: VcpuState,
  history: VcpuState[],
  table: SymbolTable | undefined,
  spoken: string | undefined,
): VcpuEvidence {
  // A spin that takes interrupts is seen in their handlers now and then.
  const here = together(history, table)
  const spins = here.length >= history.length * spinShare
  const doing = isHalted(last) ? 'halted' : spins ? 'spins' : 'runs'
  const seen = doing === 'spins' ? here.at(-1)! : last
  const at = seen.cpl === 3 ? undefined : (table?.find(ripOf(seen)) ?? spoken)
  return { ...seen, doing, ...(at === undefined ? {} : { at }) }
}

/** Where the kernel itself says that each CPU was: `RIP: 0010:provoke_spin+0x11/0x20 [provoke]`. */
export function placesIn(lines: string[]): Map<number, string> {
  const places = new Map<number, string>()
  let cpu: number | undefined
  for (const line of lines) {
    const named = /\b(?:CPU:? |cpu )(\d+)\b/.exec(line)
    if (named) cpu = Number(named[1])
    const place = /\bRIP: 0010:([\w.]+\+0x[0-9a-f]+)\/0x[0-9a-f]+( \[\w+\])?/.exec(line)
    if (place && cpu !== undefined && !places.has(cpu)) places.set(cpu, `${place[1]}${place[2] ?? ''}`)
  }
  return places
}

function findingOf({ question, lines }: Answer): string {
  if (lines.length === 0) return `asked the kernel (${question}): no answer`
  const more = lines.length > maxAnswerLines ? [`... ${lines.length - maxAnswerLines} lines more`] : []
  return [`asked the kernel (${question}):`, ...lines.slice(0, maxAnswerLines), ...more].join('\n')
}
