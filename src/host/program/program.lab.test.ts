import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Labs, SavedLabs, startLabs } from '../index.ts'
import { LabHost } from '../lab/client.ts'
import type { ProgramPlace } from './contract.ts'
import { programChecks } from './testing/checks.ts'
import { busyboxPack } from './testing/pack.ts'

describe('a program in a lab', () => {
  let saved: string
  let labs: Labs
  let host: LabHost
  let place: ProgramPlace
  beforeAll(async () => {
    saved = await mkdtemp(join(tmpdir(), 'kvitest-saved-'))
    labs = await startLabs({ labs: 1, savedLabs: new SavedLabs({ directory: saved }) })
    host = await LabHost.connect(labs.socket, 'debian:6.12-cloud')
    place = await host.openPrograms(await busyboxPack(), { cpus: 1, memory: 64 << 20 })
  })
  afterAll(async () => {
    await labs.close({ save: false })
    await rm(saved, { recursive: true, force: true })
  })
  programChecks(() => place)

  test("it runs on the lab's kernel, and what that logs comes back", async () => {
    const release = await place.run({ argv: ['/bin/busybox', 'uname', '-r'], deadline: 60_000 })
    expect(release.stdout.trim()).toBe(host.info.kernelRelease)
    const script = 'echo "<4>said by a program" > /dev/kmsg'
    const { kernelLog } = await place.run({ argv: ['/bin/sh', '-c', script], deadline: 60_000 })
    expect(kernelLog?.join('\n')).toMatch(/^\[ *\d+\.\d{6}\] said by a program$/m)
  })

  // The last one: it ends the lab, which holds the files of the pack and so would be worth keeping.
  test('the lab that it ran in is not saved', async () => {
    await place.run({ argv: ['/bin/sh', '-c', 'exit 0'], deadline: 60_000 })
    await host.close()
    await labs.close()
    expect(await readdir(saved)).toEqual([])
  })
})
