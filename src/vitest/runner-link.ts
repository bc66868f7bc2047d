import type {
  RunnerTaskEventPack,
  RunnerTaskResultPack,
  RunnerTestCase,
  RunnerTestFile,
  RunnerTestSuite,
  VitestTestRunner,
} from 'vitest'
import type { Point } from '../tap/types.ts'
import type { SettledPoint } from './settle-point.ts'

const KEY = Symbol.for('kvitest.runner')
/** Milliseconds between two updates: each resends the file's whole tree. */
const FLUSH_INTERVAL = 250

/** The runner is loaded by vitest, the session by the module graph of the tests: they meet here. */
interface Link {
  runner?: VitestTestRunner
  /** The test file whose tests are being collected. */
  collecting?: RunnerTestFile
}

function link(): Link {
  const place = globalThis as { [KEY]?: Link }
  place[KEY] ??= {}
  return place[KEY]
}

export function registerRunner(runner: VitestTestRunner): void {
  link().runner = runner
}

export function noteCollecting(file: RunnerTestFile): void {
  link().collecting = file
}

/** The test file whose module runs now; undefined outside of our runner. */
export function collectedFile(): RunnerTestFile | undefined {
  return link().collecting
}

/** `vitest -u`: what is stored beside tests is to be written anew. */
export function isUpdating(): boolean {
  return link().runner?.config.snapshotOptions.updateSnapshot === 'all'
}

/** The root of the project whose test runs here; undefined when our runner is not in use. */
export function workerRoot(): string | undefined {
  return link().runner?.config.root
}

/** Tags that a test file makes, beside those of its configuration: what no config names, vitest refuses. */
export function declareTags(names: readonly string[]): void {
  const tags = link().runner?.config.tags
  for (const name of names) if (!tags?.some((tag) => tag.name === name)) tags?.push({ name })
}

/** Undefined when the run asked for certain tests only, or when our runner is not in use. */
export function appenderFor(suite: RunnerTestSuite): PointAppender | undefined {
  const { runner } = link()
  const script = suite.tasks.find((task) => task.type === 'test' && task.name === 'script')
  if (!runner || script?.type !== 'test') return undefined
  // A test picked by its line leaves `script` out; so does -t unless its pattern fits.
  return new PointAppender(runner, suite, script)
}

/** A point that was unknown at collect time. */
export interface FoundPoint {
  name: string
  point: Point
  /** Milliseconds from the start of the script. */
  elapsed: number
  line: number
}

/** Appends points that were unknown at collect time as finished tests, in batches. */
export class PointAppender {
  readonly #runner: VitestTestRunner
  readonly #suite: RunnerTestSuite
  readonly #script: RunnerTestCase
  readonly #pattern: RegExp | undefined
  readonly #picked: boolean
  #fresh: RunnerTestCase[] = []
  #names = new Set<string>()
  #timer: NodeJS.Timeout | undefined
  #sending: Promise<void> = Promise.resolve()

  constructor(runner: VitestTestRunner, suite: RunnerTestSuite, script: RunnerTestCase) {
    this.#runner = runner
    this.#suite = suite
    this.#script = script
    this.#pattern = runner.config.testNamePattern
    this.#picked = script.mode === 'skip' && this.#pattern === undefined
    for (const task of suite.tasks) this.#names.add(task.name)
  }

  /** `settle` says what the point comes to under the name it gets here. */
  add({ name, point, elapsed, line }: FoundPoint, settle: (name: string) => SettledPoint): void {
    const unique = this.#unique(name || `point ${point.id}`)
    const prefix = (full: string) => full.slice(0, full.length - this.#script.name.length)
    const fullTestName = prefix(this.#script.fullTestName) + unique
    if (this.#picked || (this.#pattern && !this.#pattern.test(fullTestName))) return
    const { result, meta, annotations } = settle(unique)
    const test = {
      ...this.#script,
      id: `${this.#suite.id}_${this.#suite.tasks.length}`,
      name: unique,
      fullName: prefix(this.#script.fullName) + unique,
      fullTestName,
      mode: result.state === 'skip' ? 'skip' : 'run',
      location: { line, column: 1 },
      annotations,
      artifacts: [],
      meta: { ...meta, kvitestPoint: { id: point.id, result: point.result, elapsed } },
      result: { ...result, startTime: performance.timeOrigin + point.settledAt, duration: 0, retryCount: 0 },
    } as RunnerTestCase
    this.#suite.tasks.splice(this.#suite.tasks.indexOf(this.#script), 0, test)
    this.#fresh.push(test)
    this.#timer ??= setTimeout(() => void this.flush(), FLUSH_INTERVAL)
  }

  /** Sends what was added; resolves when all of it is known to the reporters. */
  flush(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const tests = this.#fresh
    this.#fresh = []
    if (tests.length > 0) this.#sending = this.#sending.then(() => this.#send(tests))
    return this.#sending
  }

  async #send(tests: RunnerTestCase[]): Promise<void> {
    const file: RunnerTestFile = this.#suite.file
    await this.#runner.onCollected?.([file])
    const packs: RunnerTaskResultPack[] = tests.map((test) => [test.id, test.result, test.meta])
    const events: RunnerTaskEventPack[] = tests.flatMap((test): RunnerTaskEventPack[] => [
      [test.id, 'test-prepare', undefined],
      [test.id, 'test-finished', undefined],
    ])
    await this.#runner.onTaskUpdate?.(packs, events)
  }

  #unique(name: string): string {
    let unique = name
    for (let turn = 2; this.#names.has(unique); turn++) unique = `${name} (${turn})`
    this.#names.add(unique)
    return unique
  }
}
