import type { RunnerTestSuite, TestContext } from 'vitest'
import type { Point } from '../tap/types.ts'
import type { Place } from '../verdict/expectations.ts'
import { type Circumstances, type Skip, settleSkip } from '../verdict/settle.ts'
import { Attempt, HARMLESS, type Outcome } from './attempt.ts'
import { boundText, lastLines } from './bounded-text.ts'
import { allowedSplatsOf, circumstancesOf, expectationsOf } from './expected.ts'
import { pointFailure, ScriptFailure, type Place as ScriptPlace } from './failure.ts'
import { HostLease, type HostModule } from './host-lease.ts'
import { appenderFor, type PointAppender } from './runner-link.ts'
import { settlePoint } from './settle-point.ts'
import { lineOf } from './transform/points.ts'
import type { ScriptPlan, Variant } from './transform/script.ts'

const CONSOLE_LINES = 20
const MAX_STDERR = 4096
/** The test of a script as a whole, and what its header calls it where it speaks of points. */
const SCRIPT = 'script'

type OnPoint = (point: Point, elapsed: number) => void

/** Called by the module that stands for a script: one run for each of its variants. */
export function openScript(plan: ScriptPlan, loadHost: () => Promise<HostModule>) {
  const lease = new HostLease(loadHost)
  // A file of expectations that cannot be read fails the script before a guest boots.
  expectationsOf(plan.file)
  return { run: (index: number) => new ScriptRun(plan, plan.variants[index]!, lease) }
}

/** One variant of a script as a describe block: its guest, its points, its `script` test. */
export class ScriptRun {
  readonly #plan: ScriptPlan
  readonly #variant: Variant
  readonly #lease: HostLease
  #first: Attempt | undefined
  /** Of a script whose points have a fork each: their first runs, by name. */
  readonly #own = new Map<string, Attempt>()
  #suite: RunnerTestSuite | undefined
  #appender: PointAppender | undefined

  constructor(plan: ScriptPlan, variant: Variant, lease: HostLease) {
    this.#plan = plan
    this.#variant = variant
    this.#lease = lease
  }

  /** Forks or boots, and starts the script; does not wait, so that every failure is a test's own. */
  start(suite: RunnerTestSuite): void {
    this.#suite = suite
    if (this.#isPointwise) {
      // Only what was asked for: -t, a line. The lease says how many run at once.
      const asked = new Set(suite.tasks.filter((task) => task.mode === 'run').map((task) => task.name))
      for (const name of this.#names().filter((one) => asked.has(one))) {
        this.#own.set(name, this.#alone(name))
      }
      return
    }
    const declared = new Set(this.#plan.points.declared.map((point) => point.name))
    this.#appender = appenderFor(suite)
    const first = this.#begin({
      onPoint: (point, elapsed) => {
        const name = nameOf(point)
        // A second point of the same name finds its name taken and is appended too.
        if (declared.delete(name)) return
        const place = { file: this.#plan.file, line: this.#lineOf(point) }
        this.#appender?.add({ name, point, elapsed, line: place.line }, (unique) =>
          settlePoint(
            point,
            place,
            this.#skipOf(name, point),
            this.#circumstances(unique, first.place),
            first.hints(undefined),
          ),
        )
      },
    })
    this.#first = first
  }

  async stop(): Promise<void> {
    await Promise.all([this.#first, ...this.#own.values()].map((attempt) => attempt?.stop()))
    await this.#publish()
    await this.#appender?.flush()
  }

  /** The test of one declared point. */
  async point(context: TestContext, name: string, line: number): Promise<void> {
    this.#skipIfAsked(context)
    await this.#attempt(context, name, async (attempt) => {
      const settled = await attempt.point(name)
      const place = { file: this.#plan.file, line }
      context.task.meta.kvitestPlace = attempt.place
      if (!settled) {
        const outcome = await attempt.ended
        if (outcome.tap?.skipAll !== undefined) this.#skipAll(context, outcome.tap.skipAll, attempt, place)
        throw new ScriptFailure(this.#missing(outcome), place, {
          isExcusable: outcome.meta.verdict !== 'infra',
        })
      }
      const { point, elapsed } = settled
      context.task.meta.kvitestPoint = { id: point.id, result: point.result, elapsed }
      if (point.result === 'fail') throw pointFailure(point, place, attempt.hints(context.task.fullTestName))
      if (point.result === 'skip') {
        const problem = settleSkip(this.#skipOf(name, point), this.#circumstances(name, attempt.place))
        if (problem !== undefined) throw new ScriptFailure(problem, place, { isExcusable: false })
        context.skip(point.reason)
      }
      if (point.result === 'todo') context.skip(`TODO ${point.reason ?? ''}`.trimEnd())
      if (point.result === 'todo-pass') await context.annotate(`TODO passes: ${point.reason ?? ''}`, 'notice')
    })
  }

  /** The last test: what no single point can tell. */
  async script(context: TestContext): Promise<void> {
    this.#skipIfAsked(context)
    const outcomes: { name: string | undefined; attempt: Attempt; outcome: Outcome }[] = []
    for (const name of this.#runsFor(context)) {
      await this.#attempt(context, name, async (attempt) => {
        outcomes.push({ name, attempt, outcome: await attempt.ended })
        context.task.meta.kvitestPlace = attempt.place
      })
    }
    await this.#publish()
    await this.#appender?.flush()
    const place = { file: this.#plan.file, line: this.#plan.header.line }
    const problems = outcomes.flatMap(({ name, outcome }) => {
      const found = problemsOf(outcome)
      return found.length > 0 && name !== undefined ? [`alone, "${name}":`, ...found] : found
    })
    if (problems.length > 0) {
      throw new ScriptFailure(problems.join('\n'), place, {
        isExcusable: !outcomes.some(({ outcome }) => outcome.meta.verdict === 'infra' || isEmpty(outcome)),
      })
    }
    const skipped = outcomes.find(({ outcome }) => outcome.tap?.skipAll !== undefined)
    if (skipped) this.#skipAll(context, skipped.outcome.tap!.skipAll!, skipped.attempt, place)
  }

  /** The streaming attempt, or the point's own; a retry gets a guest of its own. */
  async #attempt(
    context: TestContext,
    point: string | undefined,
    use: (attempt: Attempt) => Promise<void>,
  ): Promise<void> {
    const first = this.#isPointwise ? this.#own.get(point!) : this.#first
    if (first && !isRetry(context)) return use(first)
    const attempt = this.#isPointwise ? this.#alone(point!) : this.#begin()
    try {
      await use(attempt)
    } finally {
      await attempt.stop()
      const { meta } = await attempt.ended
      context.task.meta.kvitestGuests = [...(context.task.meta.kvitestGuests ?? []), meta]
    }
  }

  /** The runs that the `script` test looks at; when no point was asked for, all of them. */
  #runsFor(context: TestContext): (string | undefined)[] {
    if (!this.#isPointwise) return [undefined]
    return this.#own.size > 0 && !isRetry(context) ? [...this.#own.keys()] : this.#names()
  }

  get #isPointwise(): boolean {
    return this.#plan.header.guest.fork === 'point'
  }

  #names(): string[] {
    return this.#plan.points.declared.map((point) => point.name)
  }

  /** A run of one point in a fork of its own. */
  #alone(point: string): Attempt {
    return this.#begin({ only: point })
  }

  #begin({ onPoint, only }: { onPoint?: OnPoint; only?: string } = {}): Attempt {
    const allowedSplats = allowedSplatsOf(this.#plan.file)
    return new Attempt(this.#plan, this.#variant, this.#lease, onPoint, { only, allowedSplats })
  }

  /** The whole script was skipped, and so is this test, if that was declared. */
  #skipAll(context: TestContext, reason: string, attempt: Attempt, place: ScriptPlace): never {
    const skip = { name: SCRIPT, reason, declared: this.#plan.header.skips }
    const problem = settleSkip(skip, this.#circumstances(SCRIPT, attempt.place))
    if (problem !== undefined) throw new ScriptFailure(problem, place, { isExcusable: false })
    return context.skip(reason)
  }

  #skipOf(name: string, { reason }: Point): Skip {
    return { name, reason, declared: this.#plan.header.skips }
  }

  #circumstances(name: string, place: Place): Circumstances {
    const blocks = this.#plan.variants.length > 1 ? [this.#variant.name] : []
    return circumstancesOf({ file: this.#plan.file, path: [...blocks, name] }, place)
  }

  /** Of several guests the first that did not end well stands for all. */
  async #publish(): Promise<void> {
    if (!this.#suite) return
    const attempts = [...(this.#first ? [this.#first] : []), ...this.#own.values()]
    const metas = await Promise.all(attempts.map(async (attempt) => (await attempt.ended).meta))
    const meta = metas.find(({ verdict }) => !HARMLESS.includes(verdict)) ?? metas[0]
    if (meta) this.#suite.meta.kvitestGuest = meta
    // One console is enough for the report.
    if (metas.length > 1) {
      this.#suite.meta.kvitestGuests = metas.map((one) => (one === meta ? one : { ...one, console: '' }))
    }
  }

  #skipIfAsked(context: TestContext): void {
    if (this.#plan.header.skip !== undefined) context.skip(this.#plan.header.skip)
  }

  #missing(outcome: Outcome): string {
    const why = outcome.tap?.bailOut === undefined ? endOf(outcome) : `bail out: ${outcome.tap.bailOut}`
    return `the script ended before this point: ${why}`
  }

  #lineOf(point: Point): number {
    return lineOf(this.#plan.points, nameOf(point)) ?? this.#plan.header.line
  }
}

function isRetry(context: TestContext): boolean {
  const result = context.task.result
  return Boolean(result?.retryCount || result?.repeatCount)
}

function nameOf(point: Point): string {
  return [...point.path, point.name].join(' > ')
}

/** One line: how it ended and why. */
function endOf({ result, meta }: Outcome): string {
  const exit = result ? exitOf(result) : undefined
  return [`${meta.verdict}: ${meta.reason}`, ...(exit ? [exit] : [])].join('; ')
}

function exitOf(result: NonNullable<Outcome['result']>): string | undefined {
  if (result.timedOut) return 'the script was over its time and was killed'
  if (result.signal !== null) return `the script was killed by ${result.signal}`
  return result.status === 0 ? undefined : `the script exited with status ${result.status}`
}

/** What is wrong with a run beyond the points that failed, which are told by their own tests. */
function problemsOf(outcome: Outcome): string[] {
  const { tap, result, meta, error } = outcome
  const failed = tap?.points.some((point) => point.result === 'fail') ?? false
  const problems = [...(tap?.problems ?? []), ...duplicateNames(tap?.points ?? [])]
  if (tap?.bailOut !== undefined) problems.unshift(`bail out: ${tap.bailOut}`)
  if (isEmpty(outcome) && tap?.skipAll === undefined && problems.length === 0) {
    problems.push('the script printed no points')
  }
  const exit = result ? exitOf(result) : undefined
  const explained = failed && result?.status === 1
  if (exit && !explained) problems.push(exit)
  if (error) problems.unshift(endOf(outcome))
  else if (!HARMLESS.includes(meta.verdict)) {
    // A verdict `fail` only repeats what failed points and the lines above say.
    const repeats = meta.verdict === 'fail' && (failed || problems.length > 0)
    if (!repeats) problems.unshift(`${meta.verdict}: ${meta.reason}`)
  }
  if (problems.length === 0) return []
  return [...problems, ...evidenceOf(outcome)]
}

/** It came to an end of its own and tested nothing. */
function isEmpty({ tap, result, error }: Outcome): boolean {
  if (error || !tap || !result || result.timedOut || result.signal !== null) return false
  return tap.points.length === 0 && tap.bailOut === undefined
}

function duplicateNames(points: Point[]): string[] {
  const names = new Set<string>()
  const twice = new Set<string>()
  for (const point of points) {
    const name = nameOf(point)
    if (names.has(name)) twice.add(name)
    names.add(name)
  }
  return [...twice].slice(0, 20).map((name) => `two points named "${name}"`)
}

function evidenceOf({ result, meta, evidence, vcpus, trace }: Outcome): string[] {
  const stderr = result?.stderr.trim()
  const console = lastLines(meta.console, CONSOLE_LINES)
  return [
    ...evidence,
    ...(vcpus ?? []).map((vcpu) =>
      `vCPU ${vcpu.index}: rip ${vcpu.registers.rip} ${vcpu.mpState ?? ''}`.trimEnd(),
    ),
    ...(stderr ? ['stderr of the script:', boundText(stderr, MAX_STDERR)] : []),
    ...(console.length > 0 ? ['end of the console:', ...console] : []),
    ...trace,
  ]
}
