/** What a profile and a cell come to on a KVM in which breaks are planted, against the same without. */
import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { compareProfiles } from '../../abi/profile/diff.ts'
import { type Profile, readProfile } from '../../abi/profile/profile.ts'
import { type HostChoice, openMachineHost } from '../../host/index.ts'
import { compareCells } from '../account.ts'
import { CellRun } from '../cell-run.ts'
import { expandMatrix } from '../declare.ts'
import { plantArgv, planted } from '../plant.ts'
import { abiProbe } from '../tools/probe.ts'

const run = promisify(execFile)
const main = join(import.meta.dirname, '../../cli/main.ts')
const probe = abiProbe({ version: '6.1' })

async function profileOf(plants: readonly string[]): Promise<Profile> {
  const folder = await mkdtemp(join(tmpdir(), 'kvitest-planted-'))
  try {
    const path = join(folder, 'profile.json')
    const argv = [process.execPath, main, 'abi', 'dump', '--host', 'local', '-o', path]
    const [command, ...rest] = plants.length > 0 ? [...plantArgv(plants), ...argv] : argv
    await run(command!, rest)
    return await readProfile(path)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

let unchanged: Promise<Profile> | undefined

/** Lines `KEY: BEFORE -> AFTER` of this machine's profile with these plants against the one without, sorted. */
export async function profileChanges(plants: readonly string[]): Promise<string[]> {
  unchanged ??= profileOf([])
  const changes = compareProfiles([await unchanged, await profileOf(plants)])
  const show = (value: unknown) => value ?? 'absent'
  return changes.map((one) => `${one.key}: ${show(one.before)} -> ${show(one.after)}`).toSorted()
}

/** How the cell of the probe of 6.1 differs with a plant. Throws when the one without does not run to its end. */
export async function probeDifferences(host: HostChoice, plant: string): Promise<string[]> {
  await using machines = await openMachineHost(host)
  const tools = [probe, planted(probe, [plant])]
  const runs = expandMatrix({ name: 'planted', tools, hosts: [host] }).map(
    (cell) => new CellRun(cell, async () => machines),
  )
  try {
    for (const one of runs) await one.points()
    const [good, bad] = runs.map(({ results }) => results)
    if (good!.get('the run')?.verdict !== 'pass') throw new Error(`the probe ended early on ${host}`)
    // The number of a point is not its own.
    return compareCells(good!, bad!).map((line) => line.replace(/ \(not ok .*/, ' (not ok)'))
  } finally {
    for (const one of runs) await one.close()
  }
}
