/** This machine's KVM with one break planted at a time: red is what depends on it, and nothing else. And one in a lab. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { whyNoKvm } from '../native/testing/bare-guest.ts'
import { plantArgv } from './plant.ts'
import { plantedBreaks } from './testing/planted-breaks.ts'
import { probeDifferences, profileChanges } from './testing/planted-runs.ts'

const root = resolve(import.meta.dirname, '../..')
const reason = whyNoKvm()

interface Json {
  testResults: { name: string; assertionResults: { title: string; status: string }[] }[]
}

const named = `suites/kvm on a KVM in which a break is planted${reason ? ` (skipped: ${reason})` : ''}`
describe.skipIf(reason)(named, () => {
  let folder: string
  let before: Map<string, string>

  /** How each check ended: `FILE > NAME`, of any block. */
  const checks = (plants: string[]): Map<string, string> => {
    const path = join(folder, 'checks.json')
    const vitest = [join(root, 'node_modules/.bin/vitest'), 'run', '--project', 'kvm (local)']
    const argv = [...(plants.length > 0 ? plantArgv(plants) : []), ...vitest]
    const [command, ...rest] = [...argv, '--reporter=json', `--outputFile=${path}`]
    spawnSync(command!, rest, { cwd: root, stdio: 'ignore' })
    const { testResults } = JSON.parse(readFileSync(path, 'utf8')) as Json
    rmSync(path)
    return new Map(
      testResults.flatMap(({ name, assertionResults }) =>
        assertionResults.map(({ title, status }) => [`${basename(name, '.test.ts')} > ${title}`, status]),
      ),
    )
  }
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'kvitest-planted-'))
    before = checks([])
  })
  afterAll(() => rmSync(folder, { recursive: true, force: true }))

  test('there are checks, and nearly all of them pass without', () => {
    const passed = [...before.values()].filter((status) => status === 'passed')
    expect(before.size).toBeGreaterThan(700)
    expect(before.size - passed.length).toBeLessThan(5)
  })

  test.for(plantedBreaks)('$plant: checks', ({ plant, checks: expected }) => {
    const after = checks([plant])
    expect([...after.keys()].toSorted()).toEqual([...before.keys()].toSorted())
    const red = [...after].filter(([name, status]) => status !== before.get(name)).map(([name]) => name)
    expect(red.toSorted()).toEqual(expected.toSorted())
  })

  test.for(plantedBreaks)('$plant: the profile', async ({ plant, profile }) => {
    expect(await profileChanges([plant])).toEqual(profile)
  })
})

test('a break that is planted in the KVM of a lab is seen by a program that is linked statically', async () => {
  const { plant, points } = plantedBreaks.find(({ letter }) => letter === 'D')!
  expect(await probeDifferences('lab:debian:6.12-cloud', plant)).toEqual(points)
})
