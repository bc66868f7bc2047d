/** scripts/counts-reporter.ts, of which `npm test` makes its closing lines: what failed is counted and named, wherever it failed. */
import { resolve } from 'node:path'
import { expect, test } from 'vitest'
import { TemporaryProject } from './testing/run-vitest.ts'

const REPORTER = resolve(import.meta.dirname, '../../scripts/counts-reporter.ts')

const FILES = {
  'tests.test.ts': `
    import { beforeAll, describe, expect, test } from 'vitest'
    test('good', () => {})
    test.skip('left out', () => {})
    test.todo('to do')
    test('bad', () => { throw new Error('one line\\nand another') })
    describe('block', () => {
      beforeAll(() => { throw new Error('no set-up') })
      test('never', () => {})
    })`,
  'stray.test.ts': `
    import { test } from 'vitest'
    test('leaves a rejection', () => { Promise.reject(new Error('nobody waits')) })`,
  'broken.test.ts': `throw new Error('no module')`,
}

test('failures in tests, hooks, modules and outside of them', async () => {
  using project = new TemporaryProject(FILES, { env: { KVITEST_COUNTS: 'counts.json' } })
  const { finished } = project.start(['run', `--reporter=${REPORTER}`])
  expect((await finished).status).toBe(1)
  const { failures, ...counts } = JSON.parse(project.read('counts.json'))
  expect(counts).toEqual({ passed: 2, failed: 4, skipped: 3 })
  expect(failures.toSorted()).toEqual([
    'broken.test.ts: no module',
    'outside of every test: nobody waits',
    'tests.test.ts > bad: one line',
    'tests.test.ts > block: no set-up',
  ])
})
