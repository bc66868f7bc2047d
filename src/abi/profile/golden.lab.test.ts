import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { openMachineHost } from '../../host/index.ts'
import { Broker } from '../../host/lab/broker.ts'
import { readFootprints, toolsByKey } from '../footprints/footprints.ts'
import { compareProfiles } from './diff.ts'
import { dumpProfile } from './dump.ts'
import { goldenOf } from './golden.ts'
import { type Profile, readProfile, renderProfile } from './profile.ts'
import { renderHuman } from './text.ts'

const accept = 'npx vitest run --project lab src/abi/profile/golden.lab.test.ts -u'

/** Goldens are of emulated labs: a nested one has this machine's CPU. */
async function dumpEmulated(kernel: string): Promise<Profile> {
  await using host = await openMachineHost(`lab:${kernel}`)
  if (host.info.accelerator === 'tcg') return await dumpProfile(host)
  const labs = await Broker.start({ labs: 1, accelerator: async () => 'tcg' })
  try {
    await using emulated = await openMachineHost(`lab:${kernel}`, { labSocket: labs.socket })
    return await dumpProfile(emulated)
  } finally {
    await labs.close({ save: false })
  }
}

describe.each(['debian:6.1-cloud', 'debian:6.12-cloud'])('KVM of %s', (kernel) => {
  test('is as its golden has it; -u accepts what is new', async () => {
    const name = kernel.replace(':', '-')
    const path = fileURLToPath(new URL(`../../../fixtures/abi/${name}.json`, import.meta.url))
    const committed = await readProfile(path).catch((error: { code?: string }) => {
      if (error.code !== 'ENOENT') throw error
      return undefined
    })

    const golden = goldenOf(await dumpEmulated(kernel), committed)

    const changes = committed ? compareProfiles([committed, golden], toolsByKey(await readFootprints())) : []
    const lines = renderHuman(changes, { showAll: true })
    if (changes.length > 0) console.error([`${kernel} differs from fixtures/abi:`, ...lines].join('\n'))
    const message = `${lines.at(-1)}; review it, and accept it with: ${accept}`
    await expect(renderProfile(golden), message).toMatchFileSnapshot(path)
  })
})
