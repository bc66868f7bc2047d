import type { Reporter, TestCase, TestModule } from 'vitest/node'
import { type RunSummary, summaryLines } from '../report/summary.ts'
import { takeLeases } from './global-setup.ts'
import type {} from './meta.ts'

/** The last lines of a run: guests by verdict, points by result, what was flaky. */
export class SummaryReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const lines = summaryLines({ ...summarise(modules), ...leases() })
    if (lines.length > 0) console.log(`\n${lines.map((line) => `    kvitest  ${line}`).join('\n')}`)
  }
}

function leases(): Pick<RunSummary, 'leases'> {
  const taken = takeLeases()
  return taken ? { leases: taken } : {}
}

function summarise(modules: readonly TestModule[]): RunSummary {
  const summary: RunSummary = { verdicts: [], points: [], flaky: [] }
  for (const module of modules) {
    const blocks = [module, ...module.children.allSuites(), ...module.children.allTests()]
    for (const block of blocks) {
      const guest = block.meta().kvitestGuest
      if (guest) summary.verdicts.push(guest.verdict)
    }
    for (const test of module.children.allTests()) {
      const point = test.meta().kvitestPoint
      if (point) summary.points.push(point.result)
      if (test.diagnostic()?.flaky) summary.flaky.push({ name: nameOf(test), failure: firstFailure(test) })
    }
  }
  return summary
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
