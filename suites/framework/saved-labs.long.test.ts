/** Which ends of a run save its lab: its own end does, a person's Ctrl-C does not. */
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { root, startMarked, startOnTerminal } from './marked-process.ts'
import { type OwnCache, ownCache } from './own-cache.ts'

const kvitestRun = ['scripts/kvitest', 'run', '--host', 'lab', '--', 'echo', 'in the guest']

let cache: OwnCache

beforeEach(async () => {
  cache = await ownCache()
})

afterEach(() => cache[Symbol.asyncDispose]())

test('with KVITEST_SAVED_LABS=0 nothing is saved', async () => {
  const run = startMarked(kvitestRun, {
    env: { ...cache.env, KVITEST_SAVED_LABS: '0' },
    ownLabs: true,
    input: '',
  })
  expect(await run.finished).toMatchObject({ status: 0 })
  expect(await cache.savedLabs()).toEqual([])
})

test('kvitest run that is interrupted saves nothing', async () => {
  const run = startMarked(
    ['scripts/kvitest', 'run', '--host', 'lab', '--', 'sh', '-c', 'echo here; sleep 600'],
    {
      env: cache.env,
      ownLabs: true,
    },
  )
  await run.until(/here/)
  run.child.kill('SIGINT')
  expect(await run.finished).toMatchObject({ status: 130 })
  expect(await run.survivors()).toEqual([])
  expect(await cache.savedLabs()).toEqual([])
})

test.for(['vitest run', 'vitest watch'])(
  '%s that is interrupted by Ctrl-C saves nothing',
  async (command) => {
    const fixtures = join(root, 'fixtures/scripts')
    const run = startOnTerminal(`${command} --root ${fixtures} never-ends --reporter=verbose`, {
      env: cache.env,
      ownLabs: true,
    })
    await run.until(/✓.*never-ends is running/)
    run.child.stdin!.write('\x03')
    await run.finished
    expect(await run.survivors()).toEqual([])
    expect(await cache.savedLabs()).toEqual([])
  },
)

test('vitest run that ends by itself saves its lab, whatever its tests said', async () => {
  const fixtures = join(root, 'fixtures/scripts')
  const run = startMarked(['vitest', 'run', '--root', fixtures, 'missing-declared-point'], {
    env: cache.env,
    ownLabs: true,
  })
  await run.finished
  expect(await run.survivors()).toEqual([])
  expect(await cache.savedLabs()).toEqual([expect.stringMatching(/^[0-9a-f]{32}$/)])
})
