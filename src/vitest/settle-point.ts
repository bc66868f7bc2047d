import type { TaskMeta, TestAnnotation, TestError } from 'vitest'
import type { Point } from '../tap/types.ts'
import { type Circumstances, type Skip, settleSkip, settleTest } from '../verdict/settle.ts'
import { type Place, pointFailure, ScriptFailure } from './failure.ts'
import type {} from './meta.ts'
import { expectationError, noteSettlement } from './settle-task.ts'

/** What a point that was unknown at collect time comes to, as vitest keeps a finished test. */
export interface SettledPoint {
  result: { state: 'pass' | 'fail' | 'skip'; note?: string; errors?: TestError[] }
  meta: TaskMeta
  annotations: TestAnnotation[]
}

/**
 * No runner runs such a point, so what settleTask does for others is done here. `hints` are lines for the message of a
 * point that failed.
 */
export function settlePoint(
  point: Point,
  place: Place,
  skip: Skip,
  circumstances: Circumstances,
  hints: string[] = [],
): SettledPoint {
  const meta: TaskMeta = { kvitestPlace: circumstances.place }
  const plain = (result: SettledPoint['result']): SettledPoint => ({ result, meta, annotations: [] })
  if (point.result === 'todo') return plain({ state: 'skip', note: `TODO ${point.reason ?? ''}`.trimEnd() })
  if (point.result === 'skip') {
    const problem = settleSkip(skip, circumstances)
    if (problem === undefined) return plain({ state: 'skip', note: skip.reason ?? '' })
    return plain({
      state: 'fail',
      errors: [errorOf(new ScriptFailure(problem, place, { isExcusable: false }))],
    })
  }
  const errors = point.result === 'fail' ? [errorOf(pointFailure(point, place, hints))] : []
  const settlement = settleTest(
    errors.length > 0 ? { state: 'fail', isExcusable: true } : { state: 'pass' },
    circumstances,
  )
  noteSettlement(meta, settlement, errors)
  if (settlement.kind === 'expected-failure') {
    const annotations = [{ type: 'notice', message: settlement.message }]
    return { result: { state: 'pass' }, meta, annotations }
  }
  if (settlement.kind !== 'as-is') errors.push(expectationError(settlement))
  return plain(errors.length > 0 ? { state: 'fail', errors } : { state: 'pass' })
}

function errorOf({ name, message, stack, expected, actual, showDiff }: ScriptFailure): TestError {
  const diff = showDiff
    ? `- Expected\n+ Received\n\n${marked('-', expected)}\n${marked('+', actual)}`
    : undefined
  return { name, message, ...(stack ? { stack } : {}), ...(diff ? { diff } : {}) }
}

function marked(sign: string, value: unknown): string {
  const text = typeof value === 'string' ? value : JSON.stringify(value, undefined, 2)
  return text
    .split('\n')
    .map((line) => `${sign} ${line}`)
    .join('\n')
}
