import { readdirSync } from 'node:fs'
import type { Plugin } from 'vitest/config'
import type { Reporter, TestModule, TestRunEndReason, Vitest } from 'vitest/node'
import { completeness } from './completeness.ts'
import { differences } from './differences.ts'
import type { Row } from './rows.ts'

const suite = new URL('..', import.meta.url)

function rowsIn(modules: readonly TestModule[]): Row[] {
  return modules.flatMap((module) =>
    [...module.children.allTests()].flatMap((test) => {
      const check = test.meta().kvitestCheck
      const name = test.fullName.replaceAll(' > ', ': ')
      return check
        ? [{ project: module.project.name, name, passed: test.result().state === 'passed', check }]
        : []
    }),
  )
}

/** The last lines of a run of the behaviour checks: how complete it was on each host, and where hosts differ. */
export class KvmReporter implements Reporter {
  #vitest: Vitest | undefined

  onInit(vitest: Vitest): void {
    this.#vitest = vitest
  }

  onTestRunEnd(modules: readonly TestModule[], _: unknown, reason: TestRunEndReason): void {
    const rows = rowsIn(modules)
    if (rows.length === 0 || reason === 'interrupted') return
    const lines: string[] = []
    for (const [project, own] of Map.groupBy(rows, (row) => row.project)) {
      const found = completeness(own)
      const isWhole = this.#isWhole(modules.filter((module) => module.project.name === project))
      lines.push('', `${project}, ${own[0]!.check.kernel}: ${own.length} checks`)
      lines.push(...found.lines.filter((line) => isWhole || !line.startsWith(' ')))
      if (!isWhole || found.problems.length === 0) continue
      lines.push(...found.problems.map((problem) => `ERROR ${problem}`))
      process.exitCode = 1
    }
    lines.push('', ...differences(rows))
    console.log(lines.map((line) => `    kvm  ${line}`.trimEnd()).join('\n'))
  }

  /** Part of the checks reaches part of the API: then nothing is wrong with what it does not reach. */
  #isWhole(modules: readonly TestModule[]): boolean {
    const files = readdirSync(suite).filter((name) => name.endsWith('.test.ts'))
    return (
      this.#vitest!.config.testNamePattern === undefined &&
      modules.length === files.length &&
      modules.every((module) =>
        [...module.children.allTests()].every((test) => test.result().state === 'passed'),
      )
    )
  }
}

/** For the projects that run suites/kvm. */
export function kvmReport(): Plugin {
  return {
    name: 'kvm-report',
    configureVitest({ vitest }) {
      const { reporters } = vitest.config
      // Once, however many projects use it; and standard output may belong to a reporter for programs.
      const isThere = reporters.some((one) => (one as unknown) instanceof KvmReporter)
      const isForPeople = reporters.some(
        (one) => !Array.isArray(one) || ['default', 'verbose', 'tree', 'dot'].includes(String(one[0])),
      )
      if (isThere || !isForPeople) return
      reporters.push(new KvmReporter() as unknown as (typeof reporters)[number])
    },
  }
}
