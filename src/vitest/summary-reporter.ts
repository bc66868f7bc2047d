import type { Reporter, TestCase, TestModule, TestRunEndReason, TestSpecification, Vitest } from 'vitest/node'
import { accountLines, differenceLines } from '../matrix/account.ts'
import { type RunSummary, summaryLines, withoutScript } from '../report/summary.ts'
import { noScript } from '../verdict/types.ts'
import { takeLeases } from './global-setup.ts'
import { onInterruption } from './interruption.ts'
import { type WrittenReport, writeMatrixReports } from './matrix-report.ts'
import { guestsOf } from './meta.ts'
import { RunCheck, type RunProblem } from './run-check.ts'

/**
 * The last lines of a run: guests by verdict, points by result, what was flaky, expected, or no longer expected. What
 * is wrong with the run as a whole fails it.
 */
export class SummaryReporter implements Reporter {
  /** False: standard output belongs to a reporter for programs. */
  readonly #isForPeople: boolean
  #vitest: Vitest | undefined

  constructor(options: { isForPeople: boolean }) {
    this.#isForPeople = options.isForPeople
  }

  onInit(vitest: Vitest): void {
    this.#vitest = vitest
    onInterruption(vitest, (modules) => writeMatrixReports(vitest, modules, [], 'interrupted'))
  }

  onTestRunStart(specifications: readonly TestSpecification[]): void {
    RunCheck.of(this.#vitest!).started(specifications)
  }

  async onTestRunEnd(modules: readonly TestModule[], _: unknown, reason: TestRunEndReason): Promise<void> {
    const problems = await RunCheck.of(this.#vitest!).problems(modules, reason)
    if (problems.length > 0 && !this.#vitest!.config.watch) process.exitCode = 1
    // Here and not in a reporter of its own: the last lines name the files, so they must be there.
    const reports = writeMatrixReports(this.#vitest!, modules, problems, reason)
    if (this.#isForPeople) {
      const leases = takeLeases()
      const summary = { ...summarise(modules, problems, reports), ...(leases ? { leases } : {}) }
      print(summaryLines(summary), (text) => console.log(text))
    } else {
      print(
        problems.map(({ message }) => message),
        (text) => console.error(text),
      )
    }
  }
}

function print(lines: readonly string[], write: (text: string) => void): void {
  if (lines.length > 0) write(`\n${lines.map((line) => `    kvitest  ${line}`).join('\n')}`)
}

function summarise(
  modules: readonly TestModule[],
  problems: readonly RunProblem[],
  reports: readonly WrittenReport[],
): RunSummary {
  const summary: RunSummary = {
    verdicts: [],
    forks: 0,
    boots: 0,
    resets: 0,
    points: [],
    flaky: [],
    expected: [],
    unexpectedPasses: [],
    problems: problems.map(({ message }) => message),
  }
  for (const module of modules) {
    const blocks = [module, ...module.children.allSuites(), ...module.children.allTests()]
    for (const guest of blocks.flatMap((block) => guestsOf(block.meta()))) {
      summary.verdicts.push(guest.reason === noScript ? withoutScript : guest.verdict)
      if (guest.start === 'fork') summary.forks++
      if (guest.start === 'boot') summary.boots++
      summary.resets += guest.resets ?? 0
    }
    for (const test of module.children.allTests()) addTest(summary, test)
  }
  const cells = reports.flatMap(({ run: { name, expected, cells: ran }, page }) => [
    ...accountLines(name, expected, ran),
    ...ran.flatMap(differenceLines),
    `  report: ${page}`,
  ])
  return cells.length > 0 ? { ...summary, cells } : summary
}

function addTest(summary: RunSummary, test: TestCase): void {
  const { kvitestPoint, kvitestExpected, kvitestUnexpectedPass } = test.meta()
  if (kvitestPoint) summary.points.push(kvitestPoint.result)
  const name = nameOf(test)
  if (kvitestExpected) {
    const { source, reason, link } = kvitestExpected
    summary.expected.push({ name, entry: `${source}: ${reason}, ${link}` })
  } else if (test.diagnostic()?.flaky) {
    summary.flaky.push({ name, failure: firstFailure(test) })
  }
  if (kvitestUnexpectedPass) summary.unexpectedPasses.push({ name, entry: kvitestUnexpectedPass.source })
}

function nameOf(test: TestCase): string {
  const { name } = test.module.project
  const path = `${test.module.relativeModuleId} > ${test.fullName}`
  return name ? `${name}: ${path}` : path
}

function firstFailure(test: TestCase): string {
  const failed = test.attempts().find((attempt) => attempt.state === 'failed')
  return String(failed?.errors?.[0]?.message ?? 'no message').split('\n')[0]!
}
