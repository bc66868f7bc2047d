import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openMachineHost } from '../index.ts'
import type { MachineHost } from '../machine-host.ts'
import type { ProgramPlace } from './contract.ts'
import { programChecks } from './testing/checks.ts'
import { busyboxPack } from './testing/pack.ts'

describe('a program in a lab', () => {
  let host: MachineHost
  let place: ProgramPlace
  beforeAll(async () => {
    host = await openMachineHost('lab:debian:6.12-cloud')
    place = await host.openPrograms(await busyboxPack(), { cpus: 1, memory: 64 << 20 })
  })
  afterAll(() => host.close())
  programChecks(() => place)

  test("it runs on the lab's kernel, and what that logs comes back", async () => {
    const release = await place.run({ argv: ['/bin/busybox', 'uname', '-r'], deadline: 60_000 })
    expect(release.stdout.trim()).toBe(host.info.kernelRelease)
    const script = 'echo "<4>said by a program" > /dev/kmsg'
    const { kernelLog } = await place.run({ argv: ['/bin/sh', '-c', script], deadline: 60_000 })
    expect(kernelLog?.join('\n')).toMatch(/^\[ *\d+\.\d{6}\] said by a program$/m)
  })
})
