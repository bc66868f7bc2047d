/** Breaks that are planted in this machine's KVM: exactly what depends on them changes. */
import { describe, expect, test } from 'vitest'
import { whyNoKvm } from '../native/testing/bare-guest.ts'
import { plantArgv } from './plant.ts'
import { plantedBreaks } from './testing/planted-breaks.ts'
import { probeDifferences, profileChanges } from './testing/planted-runs.ts'

const reason = whyNoKvm()

const named = `a break that is planted in KVM${reason ? ` (skipped: ${reason})` : ''}`
describe.skipIf(reason)(named, () => {
  // One profile for all of them; plant.long.test.ts has one for each.
  test('the profile names what each of them changes, and nothing else', async () => {
    const keys = plantedBreaks.flatMap(({ profile }) => profile)
    expect(await profileChanges(plantedBreaks.map(({ plant }) => plant))).toEqual(keys.toSorted())
  })

  test.for(plantedBreaks)(
    '$plant: of the points of a probe those that depend on it',
    async ({ plant, points }) => {
      expect(await probeDifferences('local', plant)).toEqual(points)
    },
  )
})

test.for([
  ['nothing', 'there is no such plant'],
  ['refuse=KVM_RUN', 'want ioctl:errno after its name'],
  ['errno=KVM_RUN:EINTR:EFOO', "'EFOO' is no errno"],
  ['capability-gone=KVM_CAP_NONE', "'KVM_CAP_NONE' is no capability"],
  ['msr-gone=many', "'many' is no number"],
])('%s is refused', ([plant, detail]) => {
  expect(() => plantArgv([plant!])).toThrow(`plant ${plant}: ${detail}`)
})
