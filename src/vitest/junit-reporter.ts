import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname, relative, resolve } from 'node:path'
import type { SerializedError, TestError } from 'vitest'
import type { Reporter, TestCase, TestModule, TestRunEndReason, TestSuite, Vitest } from 'vitest/node'
import type { CellRecord } from '../matrix/account.ts'
import { axisValue } from '../matrix/axes.ts'
import {
  type JUnitCase,
  type JUnitOutcome,
  type JUnitProblem,
  type JUnitSuite,
  junitXml,
} from '../report/junit.ts'
import { onInterruption } from './interruption.ts'
import { type GuestMeta, guestsOf } from './meta.ts'
import { RunCheck, type RunProblem } from './run-check.ts'

export interface JUnitReporterOptions {
  /** Relative to the root. `--outputFile.junit` wins. */
  outputFile?: string
}

type Block = TestModule | TestSuite

interface Run {
  root: string
  /** By Ctrl-C or --bail: tests without a result were never meant to have one. */
  interrupted: boolean
}

/** Writes a JUnit file: one suite per guest, or per file without one. */
export class JUnitReporter implements Reporter {
  readonly #options: JUnitReporterOptions
  #vitest: Vitest | undefined

  constructor(options: JUnitReporterOptions = {}) {
    this.#options = options
  }

  onInit(vitest: Vitest): void {
    this.#vitest = vitest
    onInterruption(vitest, (modules) => this.#write(modules, [], 'interrupted', []))
  }

  async onTestRunEnd(
    modules: readonly TestModule[],
    unhandled: readonly SerializedError[],
    reason: TestRunEndReason,
  ): Promise<void> {
    const problems = await RunCheck.of(this.#vitest!).problems(modules, reason)
    this.#write(modules, unhandled, reason, problems)
  }

  #write(
    modules: readonly TestModule[],
    unhandled: readonly SerializedError[],
    reason: TestRunEndReason,
    problems: readonly RunProblem[],
  ): void {
    const { root, outputFile } = this.#vitest!.config
    const asked = typeof outputFile === 'object' ? outputFile.junit : undefined
    const path = resolve(root, asked ?? this.#options.outputFile ?? 'test-results/junit.xml')
    const all = modules.flatMap((module) => suitesOf(module, { root, interrupted: reason === 'interrupted' }))
    const suites = this.#vitest!.config.mergeReports ? withoutLeftOut(all) : all
    if (unhandled.length > 0) suites.push(unhandledSuite(unhandled))
    if (problems.length > 0) suites.push(runSuite(problems))
    mkdirSync(dirname(path), { recursive: true })
    // A reader never sees half a file, and a run that dies here leaves the old one.
    writeFileSync(`${path}.${process.pid}.tmp`, junitXml(suites))
    renameSync(`${path}.${process.pid}.tmp`, path)
  }
}

export default JUnitReporter

/** Of jobs that had some tests of a file each: no case for one that was left to another job. */
function withoutLeftOut(suites: readonly JUnitSuite[]): JUnitSuite[] {
  const key = ({ classname, name }: JUnitCase) => JSON.stringify([classname, name])
  const isLeftOut = ({ outcome }: JUnitCase) => outcome.kind === 'skipped' && outcome.reason === undefined
  const cases = suites.flatMap((suite) => suite.cases)
  const answered = new Set(cases.filter((one) => !isLeftOut(one)).map(key))
  return suites
    .map((suite) => ({
      ...suite,
      cases: suite.cases.filter((one) => !isLeftOut(one) || !answered.has(key(one))),
    }))
    .filter((suite, at) => suite.cases.length > 0 || suites[at]!.cases.length === 0)
}

function suitesOf(module: TestModule, run: Run): JUnitSuite[] {
  const blocks: Block[] = [...module.children.allSuites()].filter((suite) => {
    const { kvitestGuest, kvitestCell } = suite.meta()
    return (kvitestGuest && suite.parent === module) || kvitestCell
  })
  const own = suiteOf(module, module, run, new Set(blocks))
  const perGuest = blocks.map((block) => suiteOf(block, module, run, new Set()))
  return own.cases.length > 0 || perGuest.length === 0 ? [own, ...perGuest] : perGuest
}

function suiteOf(block: Block, module: TestModule, run: Run, without: ReadonlySet<Block>): JUnitSuite {
  const file = relative(run.root, module.moduleId)
  const tests = [...block.children.allTests()].filter(
    (test) => !ancestors(test).some((one) => without.has(one)),
  )
  const guest = block.meta().kvitestGuest
  const cell = cellOf(block, module)
  const title = [file, ...pathOf(block)].join(' > ')
  const cases = [...blockErrors(block, file, without), ...tests.map((test) => caseOf(test, file, run))]
  const starts = cases.flatMap((one) => one.startTime ?? [])
  const startTime = starts.length > 0 ? starts.reduce((a, b) => Math.min(a, b)) : undefined
  return {
    name: module.project.name ? `${module.project.name}: ${title}` : title,
    file,
    ...(startTime === undefined ? {} : { startTime }),
    duration: cases.reduce((sum, one) => sum + one.duration, 0),
    properties: { ...properties(guest, module.project.name), ...cellProperties(cell) },
    cases,
    ...outputOf(guest ? [guest] : [], cell?.differences?.join('\n')),
  }
}

/** As it is known when all cells have ended: then it has been compared with its baseline. */
function cellOf(block: Block, module: TestModule): CellRecord | undefined {
  const early = block.meta().kvitestCell
  const cells = (module.meta().kvitestMatrices ?? []).flatMap((matrix) => matrix.cells)
  return early && (cells.find(({ matrix, id }) => matrix === early.matrix && id === early.id) ?? early)
}

function cellProperties(cell: CellRecord | undefined): Record<string, string> {
  if (!cell) return {}
  const all = {
    'cell.matrix': cell.matrix,
    'cell.tool': cell.tool,
    'cell.tool.version': cell.toolVersion,
    'cell.tool.sha256': cell.toolHash,
    'cell.host': cell.host,
    'cell.guest': cell.guest,
    'cell.accelerator': axisValue(cell, 'accelerator'),
    'cell.machine': cell.guest && axisValue(cell, 'machine'),
    'cell.verdict': cell.verdict,
    'cell.reason': cell.reason || undefined,
    host: cell.host,
    'host.kernel': cell.hostKernel,
    accelerator: cell.hostAccelerator,
  }
  return Object.fromEntries(Object.entries(all).flatMap(([name, value]) => (value ? [[name, value]] : [])))
}

/** The consoles, and a line for each file as Jenkins' and GitLab's importers read them. */
function outputOf(guests: readonly GuestMeta[], failure?: string): { output?: string } {
  const outputs = guests.map(({ console, artifacts }) => {
    const files = artifacts?.files.map((name) => `[[ATTACHMENT|${artifacts.directory}/${name}]]`)
    return [...(console ? [console.replace(/\n$/, '')] : []), ...(files ?? [])].join('\n')
  })
  const output = [failure, ...outputs].filter(Boolean).join('\n\n')
  return output === '' ? {} : { output }
}

function properties(guest: GuestMeta | undefined, project: string): Record<string, string> {
  const all: Record<string, string | number | undefined> = {
    'kvitest.version': VERSION,
    project: project || undefined,
    kernel: guest?.kernel,
    'kernel.release': guest?.kernelRelease,
    host: guest?.host,
    'host.kernel': guest?.hostKernel,
    accelerator: guest?.accelerator,
    'guest.cpus': guest?.cpus,
    'guest.memory': guest?.memory,
    'guest.verdict': guest?.verdict,
    'guest.reason': guest?.reason,
    'guest.start': guest?.start,
    'guest.allowed': guest?.allowed?.map(({ title, source }) => `${title} (${source})`).join('; '),
    'guest.artifacts': guest?.artifacts?.directory,
    'guest.boot.ms': guest?.bootTime === undefined ? undefined : Math.round(guest.bootTime),
  }
  const known = Object.entries(all).filter(([, value]) => value !== undefined)
  return Object.fromEntries(known.map(([name, value]) => [name, String(value)]))
}

function caseOf(test: TestCase, file: string, run: Run): JUnitCase {
  const diagnostic = test.diagnostic()
  const { kvitestExpected } = test.meta()
  const outcome = outcomeOf(test, run)
  const failedAttempts = test.attempts().filter((attempt) => attempt.state === 'failed')
  // The last attempt of a failed test is its failure; every other one came before the result.
  const earlier = outcome.kind === 'failed' ? failedAttempts.slice(0, -1) : failedAttempts
  const last = test.attempts().at(-1)
  if (outcome.kind === 'failed' && last?.errors?.length) outcome.problems = last.errors.map(problemOf)
  const startTime = diagnostic?.startTime ?? test.attempts()[0]?.startTime
  return {
    ...identity(test.module, file, pathOf(test).join(' > ')),
    ...(test.location ? { line: test.location.line } : {}),
    duration: diagnostic?.duration ?? 0,
    ...(startTime === undefined ? {} : { startTime }),
    outcome,
    earlierFailures: earlier.flatMap((attempt) => (attempt.errors ?? []).map(problemOf)),
    ...outputOf(guestsOf(test.meta()), kvitestExpected?.failure),
  }
}

function outcomeOf(test: TestCase, run: Run): JUnitOutcome {
  const result = test.result()
  const { kvitestExpected } = test.meta()
  if (kvitestExpected) {
    const { reason, link, source } = kvitestExpected
    return { kind: 'skipped', reason: `expected failure: ${reason} (${link}; ${source})` }
  }
  if (result.state === 'passed') return { kind: 'passed' }
  if (result.state === 'skipped') return { kind: 'skipped', reason: result.note }
  if (result.state === 'failed') return { kind: 'failed', problems: result.errors.map(problemOf) }
  if (run.interrupted) return { kind: 'skipped', reason: 'not run: the run was interrupted' }
  const message = 'no result: the worker of this test died before it ended'
  return { kind: 'error', problems: [{ message, type: 'NoResult', details: message }] }
}

/** A file that did not load or a hook that failed has no test of its own to show it. */
function blockErrors(block: Block, file: string, without: ReadonlySet<Block>): JUnitCase[] {
  const nested = [...block.children.allSuites()].filter(
    (suite) => !without.has(suite) && !ancestors(suite).some((one) => without.has(one)),
  )
  return [block, ...nested]
    .filter((one) => one.errors().length > 0)
    .map((one) => ({
      ...identity(
        one.type === 'module' ? one : one.module,
        file,
        [...pathOf(one), '(outside of tests)'].join(' > '),
      ),
      duration: 0,
      outcome: { kind: 'error', problems: one.errors().map(problemOf) },
      earlierFailures: [],
    }))
}

function unhandledSuite(errors: readonly SerializedError[]): JUnitSuite {
  return {
    name: 'unhandled errors',
    duration: 0,
    properties: { 'kvitest.version': VERSION },
    cases: errors.map((error, at) => ({
      classname: 'vitest.unhandled',
      name: `unhandled error ${at + 1}`,
      duration: 0,
      outcome: { kind: 'error', problems: [problemOf(error)] },
      earlierFailures: [],
    })),
  }
}

/** What failed the run and no test of it. */
function runSuite(problems: readonly RunProblem[]): JUnitSuite {
  return {
    name: 'the run as a whole',
    duration: 0,
    properties: { 'kvitest.version': VERSION },
    cases: problems.map(({ name, message }) => ({
      classname: 'kvitest.run',
      name,
      duration: 0,
      outcome: { kind: 'failed', problems: [{ message, type: 'RunProblem', details: message }] },
      earlierFailures: [],
    })),
  }
}

function identity(
  module: TestModule,
  file: string,
  name: string,
): Pick<JUnitCase, 'classname' | 'name' | 'file'> {
  const parts = file.replace(/\.(tap|test)\.[a-z]+$/i, '').split('/')
  const named = module.project.name ? [module.project.name, ...parts] : parts
  return { classname: named.map((part) => part.replaceAll('.', '_')).join('.'), name, file }
}

function pathOf(entity: TestCase | Block): string[] {
  if (entity.type === 'module') return []
  return [...pathOf(entity.parent), entity.name]
}

function ancestors(entity: TestCase | TestSuite): Block[] {
  const { parent } = entity
  return parent.type === 'module' ? [parent] : [parent, ...ancestors(parent)]
}

function problemOf(error: TestError | SerializedError): JUnitProblem {
  const message = String(error.message ?? 'unknown error')
  const diff = typeof error.diff === 'string' ? error.diff : undefined
  const stack = typeof error.stack === 'string' ? error.stack : message
  return {
    message: message.split('\n')[0]!,
    type: String(error.name ?? 'Error'),
    details: [stack, ...(diff ? [diff] : [])].join('\n\n'),
  }
}

const VERSION: string = JSON.parse(
  readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
).version
