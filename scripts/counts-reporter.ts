/** What scripts/test.ts wants to know of a run of vitest, as JSON in the file that KVITEST_COUNTS names. */
import { writeFileSync } from 'node:fs'
import type { Reporter, SerializedError, TestModule, TestSuite } from 'vitest/node'

export interface Counts {
  passed: number
  failed: number
  skipped: number
  /** A line for each failure. */
  failures: string[]
}

export default class CountsReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly SerializedError[]): void {
    const counts: Counts = { passed: 0, failed: 0, skipped: 0, failures: [] }
    const fail = (what: string, [error]: readonly { message?: string }[]) => {
      counts.failed++
      counts.failures.push(`${what}: ${error?.message?.split('\n', 1)[0] ?? ''}`)
    }
    for (const module of modules) {
      const { name } = module.project
      const file = `${name ? `[${name}] ` : ''}${module.relativeModuleId}`
      // What broke outside of a test has no test to count.
      const broken: (TestModule | TestSuite)[] = [module, ...module.children.allSuites()]
      for (const one of broken) {
        if (one.errors().length > 0)
          fail('fullName' in one ? `${file} > ${one.fullName}` : file, one.errors())
      }
      for (const test of module.children.allTests()) {
        const { state, errors: reasons } = test.result()
        if (state === 'passed') counts.passed++
        else if (state === 'failed') fail(`${file} > ${test.fullName}`, reasons)
        else counts.skipped++
      }
    }
    for (const error of errors) fail('outside of every test', [error])
    writeFileSync(process.env.KVITEST_COUNTS!, JSON.stringify(counts))
  }
}
