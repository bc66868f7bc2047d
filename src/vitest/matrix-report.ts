/** Writes what each matrix of a run came to: `test-results/matrix/NAME.html` and `NAME.json`. */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname, relative, resolve } from 'node:path'
import type { TestCase, TestModule, TestRunEndReason, Vitest } from 'vitest/node'
import { pathPart } from '../report/guest-artifacts.ts'
import { matrixPage } from '../report/matrix/page.ts'
import { type MatrixReport, matrixReport, type RanCell, type ReportedPoint } from '../report/matrix/report.ts'
import { CELL, cellOfTest, type MatrixRun, matrixRuns } from './matrix-runs.ts'
import { RunCheck, type RunProblem } from './run-check.ts'
import { rerunIn, runPlace } from './run-place.ts'

const FOLDER = 'test-results/matrix'

export interface WrittenReport {
  run: MatrixRun
  /** Relative to the root, or why it could not be written. */
  page: string
}

/**
 * One report for each matrix of the run. That of a part of a matrix has a name of its own: running one cell again does
 * not take the whole one away.
 */
export function writeMatrixReports(
  vitest: Vitest,
  modules: readonly TestModule[],
  problems: readonly RunProblem[],
  reason: TestRunEndReason,
): WrittenReport[] {
  const isInterrupted = reason === 'interrupted'
  const isPart = isInterrupted || RunCheck.of(vitest).isPart
  const taken = new Map<string, number>()
  return matrixRuns(modules).map((run) => {
    const name = pathPart(run.name)
    const before = taken.get(name) ?? 0
    taken.set(name, before + 1)
    const own = `${name}${before > 0 ? `-${before + 1}` : ''}${isPart ? '.part' : ''}`
    const page = `${FOLDER}/${own}.html`
    const report = reportOf(run, { root: vitest.config.root, isPart, isInterrupted }, problems)
    try {
      write(resolve(vitest.config.root, `${FOLDER}/${own}.json`), `${JSON.stringify(report, null, 1)}\n`)
      write(resolve(vitest.config.root, page), matrixPage(report))
      return { run, page }
    } catch (error) {
      return { run, page: `not written: ${(error as Error).message}` }
    }
  })
}

/** A reader never sees half a file. */
function write(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(`${path}.${process.pid}.tmp`, text)
  renameSync(`${path}.${process.pid}.tmp`, path)
}

interface RunKind {
  root: string
  isPart: boolean
  isInterrupted: boolean
}

function reportOf(
  run: MatrixRun,
  { root, isPart, isInterrupted }: RunKind,
  problems: readonly RunProblem[],
): MatrixReport {
  const module = run.modules[0]!
  const starts = run.modules.flatMap(({ children }) =>
    [...children.allTests()].flatMap((test) => test.diagnostic()?.startTime ?? []),
  )
  const ran = new Map<string, RanCell>()
  for (const id of run.expected) {
    ran.set(id, {
      record: run.cells.find((one) => one.id === id),
      rerun: rerun(module, { block: id }),
      points: [],
    })
  }
  const outside: string[] = []
  for (const one of run.modules) {
    for (const block of [one, ...one.children.allSuites()]) {
      outside.push(...block.errors().map(({ message }) => firstLine(message)))
    }
    for (const test of one.children.allTests()) {
      const id = cellOfTest(test, run)
      const point = pointOf(test, isInterrupted)
      if (id === undefined && point?.isRed) outside.push(`${test.fullName}: ${point.reason}`)
      if (id !== undefined && point) ran.get(id)?.points.push(point)
    }
  }
  // Cells that did not run are shown as such; other faults of the run as a whole are here too.
  const whole = problems.filter(({ name }) => !name.startsWith(`matrix ${run.name}: `))
  return matrixReport({
    kvitest: VERSION,
    matrix: run.name,
    file: relative(root, module.moduleId),
    project: module.project.name,
    started: new Date(starts.length > 0 ? Math.min(...starts) : Date.now()).toISOString(),
    isPart,
    problems: [...new Set([...outside, ...whole.map(({ message }) => message)])],
    expected: run.expected,
    ran,
  })
}

/** Undefined for a test that was left out, or that its run did not come to, and for the check of a cell that holds. */
function pointOf(test: TestCase, isInterrupted: boolean): RanCell['points'][number] | undefined {
  const { kvitestResult, kvitestExpected } = test.meta()
  const { state, errors = [] } = test.result()
  const isLost = kvitestResult === undefined && state === 'pending' && test.options.mode === 'run'
  const isRed = state === 'failed' || (isLost && !isInterrupted)
  if (!kvitestResult && !isRed) return undefined
  const said = errors.map(({ message }) => firstLine(message))
  const {
    verdict,
    reason = '',
    output,
  } = kvitestResult ?? {
    verdict: 'infra' as const,
    reason: said[0] ?? 'no result: the worker of this test died before it ended',
    output: '',
  }
  const point: ReportedPoint = {
    name: test.name,
    verdict,
    reason,
    duration: Math.round(test.diagnostic()?.duration ?? 0),
    output,
    isRed,
    ...(kvitestResult?.fingerprint ? { fingerprint: kvitestResult.fingerprint } : {}),
    problems: kvitestResult ? said.filter((line) => line !== `${verdict}: ${reason}`) : [],
  }
  if (kvitestExpected) {
    const { reason: why, link, source, expires } = kvitestExpected
    point.expected = { reason: why, link, source, expires }
  }
  const isOwnTest = test.name !== CELL
  if (verdict !== 'pass' || isRed) {
    point.rerun = rerun(test.module, isOwnTest ? { test: test.fullName } : { block: blockName(test) })
  }
  return point
}

function blockName({ parent }: TestCase): string {
  return parent.type === 'suite' ? parent.fullName : ''
}

function rerun(module: TestModule, what: { test?: string; block?: string }): string {
  return rerunIn(runPlace(module.project.config.env), module.moduleId, what)
}

function firstLine(message: unknown): string {
  return String(message).split('\n')[0]!
}

const VERSION: string = JSON.parse(
  readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
).version
