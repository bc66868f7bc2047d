import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { ProgramPlace } from './contract.ts'
import { openLocalPrograms } from './local.ts'
import { programChecks } from './testing/checks.ts'
import { busyboxPack } from './testing/pack.ts'

describe('a program on this machine', () => {
  let place: ProgramPlace
  beforeAll(async () => {
    place = openLocalPrograms(await busyboxPack())
  })
  afterAll(() => place.close())
  programChecks(() => place)

  test('closing its place kills it', async () => {
    const own = openLocalPrograms(await busyboxPack())
    const begun = Promise.withResolvers<void>()
    const argv = ['/bin/sh', '-c', 'echo begun; sleep 1000']
    const running = own.run({ argv, deadline: 500_000 }, () => begun.resolve())
    await begun.promise
    await own.close()
    expect(await running).toMatchObject({ signal: 'SIGKILL', expired: false })
    await expect(own.run({ argv, deadline: 1 })).rejects.toThrow('its place was closed')
  })
})
