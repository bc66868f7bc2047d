/** Which ends of a run save its lab: its own end does, a person's Ctrl-C does not. */
import { mkdir, mkdtemp, readdir, rm, stat, symlink } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { root, startMarked, startOnTerminal } from './marked-process.ts'

const kvitestRun = ['scripts/kvitest', 'run', '--host', 'lab', '--', 'echo', 'in the guest']

let place: string
let env: NodeJS.ProcessEnv

/** A cache without labs; kernels and images are those of this machine. */
beforeEach(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-saved-runs-'))
  const shared = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'kvitest')
  await mkdir(join(place, 'kvitest'))
  for (const folder of await readdir(shared)) {
    if (['labs', 'users', 'tmp', 'locks'].includes(folder)) continue
    await symlink(join(shared, folder), join(place, 'kvitest', folder))
  }
  // The scratch directory of what is made must lie beside its final place.
  await mkdir(join(shared, 'tmp'), { recursive: true })
  await symlink(join(shared, 'tmp'), join(place, 'kvitest/tmp'))
  env = { XDG_CACHE_HOME: place, KVITEST_LAB_MEMORY: '1G' }
})

afterEach(() => rm(place, { recursive: true, force: true }))

async function saved(): Promise<string[]> {
  return readdir(join(place, 'kvitest/labs')).catch(() => [])
}

test('kvitest run saves its lab, and the next one goes on from it', async () => {
  const first = await startMarked(kvitestRun, { env, ownLabs: true, input: '' }).finished
  expect(first).toMatchObject({ status: 0, stdout: 'in the guest\n', stderr: '' })
  const [key] = await saved()
  expect(key).toMatch(/^[0-9a-f]{32}$/)
  const manifest = join(place, 'kvitest/labs', key!, 'manifest.json')
  const before = await stat(manifest)

  const second = startMarked(kvitestRun, { env, ownLabs: true, input: '' })
  expect(await second.finished).toMatchObject({ status: 0, stdout: 'in the guest\n', stderr: '' })

  // The same one, used again: nothing new came into the lab.
  const after = await stat(manifest)
  expect(after.ino).toBe(before.ino)
  expect(after.mtimeMs).toBeGreaterThan(before.mtimeMs)
  expect(await second.survivors()).toEqual([])
})

test('with KVITEST_SAVED_LABS=0 nothing is saved', async () => {
  const run = startMarked(kvitestRun, { env: { ...env, KVITEST_SAVED_LABS: '0' }, ownLabs: true, input: '' })
  expect(await run.finished).toMatchObject({ status: 0 })
  expect(await saved()).toEqual([])
})

test('kvitest run that is interrupted saves nothing', async () => {
  const run = startMarked(
    ['scripts/kvitest', 'run', '--host', 'lab', '--', 'sh', '-c', 'echo here; sleep 600'],
    {
      env,
      ownLabs: true,
    },
  )
  await run.until(/here/)
  run.child.kill('SIGINT')
  expect(await run.finished).toMatchObject({ status: 130 })
  expect(await run.survivors()).toEqual([])
  expect(await saved()).toEqual([])
})

test.for(['vitest run', 'vitest watch'])(
  '%s that is interrupted by Ctrl-C saves nothing',
  async (command) => {
    const fixtures = join(root, 'fixtures/scripts')
    const run = startOnTerminal(`${command} --root ${fixtures} never-ends --reporter=verbose`, {
      env,
      ownLabs: true,
    })
    await run.until(/✓.*never-ends is running/)
    run.child.stdin!.write('\x03')
    await run.finished
    expect(await run.survivors()).toEqual([])
    expect(await saved()).toEqual([])
  },
)

test('vitest run that ends by itself saves its lab, whatever its tests said', async () => {
  const fixtures = join(root, 'fixtures/scripts')
  const run = startMarked(['vitest', 'run', '--root', fixtures, 'missing-declared-point'], {
    env,
    ownLabs: true,
  })
  await run.finished
  expect(await run.survivors()).toEqual([])
  expect(await saved()).toEqual([expect.stringMatching(/^[0-9a-f]{32}$/)])
})
