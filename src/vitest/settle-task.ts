import { resolve } from 'node:path'
import type { RunnerTestCase, TaskMeta, TestError } from 'vitest'
import type { TestName } from '../verdict/expectations.ts'
import { type Observed, type Settlement, settleTest } from '../verdict/settle.ts'
import { boundText } from './bounded-text.ts'
import { circumstancesOf, placeOf } from './expected.ts'
import { NOTHING_PROVEN } from './failure.ts'
import type {} from './meta.ts'
import { workerRoot } from './runner-link.ts'

const MAX_FAILURE = 16 * 1024

/**
 * Makes of the attempt that a test just ended what the expectations make of it: a failure that is expected passes, a
 * pass that is not fails, and a failure under an entry that has expired says so.
 */
export async function settleTask(test: RunnerTestCase): Promise<void> {
  const { result, meta } = test
  // What an author marked with test.fails is the author's own.
  if (!result || test.fails || (result.state !== 'pass' && result.state !== 'fail')) return
  forgetAttempt(meta)
  const earlier = (result.attempts ?? []).reduce((sum, attempt) => sum + (attempt.errors?.length ?? 0), 0)
  const errors = result.errors?.slice(earlier) ?? []
  const observed: Observed =
    result.state === 'pass' ? { state: 'pass' } : { state: 'fail', isExcusable: errors.every(isExcusable) }
  const settlement = settleTest(observed, circumstancesOf(nameOfTask(test), placeOf(meta)))
  noteSettlement(meta, settlement, errors)
  if (settlement.kind === 'expected-failure') {
    result.errors?.splice(earlier)
    // An attempt that has a state takes no annotation.
    result.state = 'run'
    await test.context.annotate(settlement.message, 'notice')
    result.state = 'pass'
  } else if (settlement.kind !== 'as-is') {
    result.errors ??= []
    result.errors.push(expectationError(settlement))
    result.state = 'fail'
  }
}

/** On the test, for the reporters. */
export function noteSettlement(
  meta: TaskMeta,
  settlement: Settlement,
  errors: readonly { message?: unknown }[],
): void {
  if (settlement.kind === 'unexpected-pass') meta.kvitestUnexpectedPass = { source: settlement.entry.source }
  if (settlement.kind !== 'expected-failure') return
  const { source, reason, link = '', expires = '' } = settlement.entry
  const failure = boundText(errors.map((error) => String(error.message)).join('\n'), MAX_FAILURE)
  meta.kvitestExpected = { source, reason, link, expires, failure }
}

/** Of a settlement that is a failure. */
export function expectationError({ entry, message }: Exclude<Settlement, { kind: 'as-is' }>): TestError {
  // The stack leads to the entry.
  const source = resolve(workerRoot() ?? '', entry.source)
  return { name: 'ExpectationError', message, stack: `ExpectationError: ${message}\n    at ${source}:1` }
}

export function nameOfTask(test: RunnerTestCase): TestName {
  const path = [test.name]
  for (let suite = test.suite; suite; suite = suite.suite) path.unshift(suite.name)
  return { file: test.file.filepath, path }
}

function forgetAttempt(meta: TaskMeta): void {
  delete meta.kvitestExpected
  delete meta.kvitestUnexpectedPass
}

/** Our own fault, and what proves nothing, is no failure that an entry could have meant. */
function isExcusable(error: TestError): boolean {
  return error.infra !== true && error.name !== NOTHING_PROVEN
}
