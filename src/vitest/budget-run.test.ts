/** Runs that wait for each other's guests, through real vitest processes; their guests are stand-ins. */
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { TemporaryProject } from './testing/run-vitest.ts'

const globalSetup = [resolve(import.meta.dirname, 'global-setup.ts')]
const processBudget = resolve(import.meta.dirname, '../budget/process-budget.ts')
const holder = resolve(import.meta.dirname, '../budget/holder.ts')
const PASS = '#!/bin/sh\n# point: only\necho "ok 1 - only"\necho 1..1\n'

let place: string
beforeEach(() => {
  // A budget of their own.
  place = mkdtempSync(join(tmpdir(), 'kvitest-run-'))
})
afterEach(() => rmSync(place, { recursive: true, force: true }))

function project(files: Record<string, string>, env: NodeJS.ProcessEnv = {}, test: object = {}) {
  return new TemporaryProject(files, {
    test: { globalSetup, ...test },
    env: { XDG_RUNTIME_DIR: place, KVITEST_BUDGET_CPUS: '1', KVITEST_BUDGET_MEMORY: '1G', ...env },
  })
}

/** The most guests that lived at the same time, by the lines of the stand-in host. */
function mostAtOnce(guests: string[]): number {
  const live = guests.map((line) => (line.startsWith('stop ') ? -1 : 1))
  return Math.max(...live.map((_, index) => live.slice(0, index + 1).reduce((sum, one) => sum + one, 0)))
}

test('a budget of one CPU: guests of several files run one after the other, and the run says so', async () => {
  const env = { KVITEST_LOG: 'events' }
  using files = project({ 'a.tap.sh': PASS, 'b.tap.sh': PASS, 'c.tap.sh': PASS }, env, { maxWorkers: 3 })
  const run = await files.run()
  expect(run.status).toBe(0)
  // A guest stops twice: when its script has ended, and for good measure.
  expect(mostAtOnce([...new Set(run.guests)])).toBe(1)
  expect(run.output).toMatch(/^kvitest {2}guest [abc]\.tap\.sh starts$/m)
  expect(run.output).toMatch(/^kvitest {2}guest [abc]\.tap\.sh runs after \d+\.\d s$/m)
  expect(run.output).toMatch(/^kvitest {2}guest [abc]\.tap\.sh ended pass$/m)
  expect(run.output).toMatch(/3 leases \([12] waited, \d+\.\d s at most\)$/m)
})

test('two runs at once share one budget', async () => {
  const hold =
    '#!/bin/sh\n# point: only\ncd "$(dirname "$0")"\ntouch began\nuntil [ -e go ]; do sleep 0.1; done\necho "ok 1 - only"\necho 1..1\n'
  using first = project({ 'first.tap.sh': hold })
  using second = project({ 'second.tap.sh': PASS }, { KVITEST_LOG: 'events' })
  const one = first.start(['run', '--reporter=verbose'])
  await first.appeared('began')
  const other = second.start(['run', '--reporter=verbose'])
  await other.saw(
    'guest second.tap.sh waits for 1 CPU and 256 MiB: 1 guest of 1 run hold 1 of 1 CPU and 256 MiB of 1 GiB',
  )
  first.write({ go: '' })
  expect((await one.finished).status).toBe(0)
  expect((await other.finished).status).toBe(0)
})

test('what a test waits for its guest is not its time; what it does with it is', async () => {
  using files = project({
    'slow.test.ts': `
import { beforeAll, expect, test } from 'vitest'
import { asHolder } from ${JSON.stringify(holder)}
import { leaseGuest } from ${JSON.stringify(processBudget)}
const sleep = (ms) => new Promise((done) => setTimeout(done, ms))
const lease = (guest) => leaseGuest({ guest, cpus: 1, memory: 1 })
const held = Promise.withResolvers()

/** Gives it back after another one has waited for twice its time-out. */
async function hold(mine) {
  await sleep(4000)
  mine.end()
}

beforeAll(async () => {
  void hold(await asHolder({ id: 'another' }, () => lease('before')))
  ;(await lease('of the hook')).end()
}, 2000)

test.concurrent('holds the only CPU', { timeout: 0 }, async () => {
  const mine = await lease('holder')
  held.resolve()
  await hold(mine)
})

test.concurrent('waits for it longer than its time-out', { timeout: 2000 }, async () => {
  await held.promise
  const mine = await lease('waiter')
  mine.end()
})

test('never ends', { timeout: 300 }, async () => {
  await lease('endless')
  await sleep(60_000)
})
`,
  })
  const { tests } = await files.run()
  expect(tests).toMatchObject({
    'holds the only CPU': { status: 'passed' },
    'waits for it longer than its time-out': { status: 'passed' },
    'never ends': { status: 'failed', failureMessages: [expect.stringContaining('timed out in 300ms')] },
  })
})

test('a test that holds a guest and wants another gets it, however many do so and however small the budget', async () => {
  const two = `
import { test } from 'vitest'
import { leaseGuest } from ${JSON.stringify(processBudget)}
const lease = (guest) => leaseGuest({ guest, cpus: 1, memory: 1 })
test.concurrent.for([1, 2, 3, 4])('test %i', { timeout: 30_000 }, async (number) => {
  const first = await lease('first of ' + number)
  first.started()
  const second = await lease('second of ' + number)
  first.end()
  second.end()
})
`
  for (const maxConcurrency of [1, 4]) {
    using files = project({ 'a.test.ts': two, 'b.test.ts': two }, {}, { maxConcurrency, maxWorkers: 2 })
    const { status, output } = await files.run()
    expect(`${status} ${output}`).toMatch(/^0 /)
  }
})

test('a hook that holds a guest for tests that want others does not stop them, nor a file beside', async () => {
  const text = `
import { afterAll, beforeAll, test } from 'vitest'
import { leaseGuest } from ${JSON.stringify(processBudget)}
const lease = (guest) => leaseGuest({ guest, cpus: 1, memory: 1 })
let mine
beforeAll(async () => {
  mine = await lease('of the hook')
  mine.started()
})
afterAll(() => mine.end())
test.concurrent.for([1, 2, 3])('test %i', async (number) => {
  const one = await lease('of test ' + number)
  one.started()
  one.end()
})
`
  const events = { KVITEST_LOG: 'events' }
  using files = project({ 'a.test.ts': text, 'b.test.ts': text }, events, { maxWorkers: 2 })
  const { status, output } = await files.run()
  expect(`${status} ${output}`).toMatch(/^0 /)
  expect(output.match(/guest of test \d starts$/gm)).toHaveLength(6)
  expect(output).not.toContain('nothing moved')
})

test('a second run in one process has labs of its own: those of the first have ended', async () => {
  using files = project({
    'a.test.ts': `import { existsSync } from 'node:fs'
import { expect, test } from 'vitest'
test('somebody serves labs', () => expect(existsSync(process.env.KVITEST_LAB_SOCKET)).toBe(true))
`,
    'twice.mjs': `import { startVitest } from 'vitest/node'
for (const time of ['first', 'second']) {
  const vitest = await startVitest('test', ['a.test.ts'], { run: true, watch: false })
  console.log(time, vitest.state.getCountOfFailedTests())
  await vitest.close()
}
process.exit(0)
`,
  })
  const { PATH, HOME } = process.env
  const env = { PATH, HOME, XDG_RUNTIME_DIR: place, NO_COLOR: '1' }
  const { stdout } = await promisify(execFile)(process.execPath, ['twice.mjs'], { cwd: files.folder, env })
  expect(stdout).toMatch(/^first 0$[\s\S]*^second 0$/m)
})

test('the bottom of a terminal shows what guests do', async () => {
  const hold =
    '#!/bin/sh\n# point: only\ncd "$(dirname "$0")"\nuntil [ -e go ]; do sleep 0.1; done\necho "ok 1 - only"\necho 1..1\n'
  using files = project({ 'a.tap.sh': hold, 'b.tap.sh': hold }, {}, { maxWorkers: 2 })
  const run = files.startOnTerminal(['run'])
  await run.saw('1 running, 1 waiting for 1 CPU and 256 MiB: 1 guest of 1 run hold 1 of 1 CPU')
  files.write({ go: '' })
  expect((await run.finished).status).toBe(0)
})
