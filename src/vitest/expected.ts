/** What is expected of the tests of this worker. */
import type { TaskMeta } from 'vitest'
import type { AllowedSplat, ExpectationFile, Place, TestName } from '../verdict/expectations.ts'
import type { Circumstances } from '../verdict/settle.ts'
import { expectationFilesFor } from './expectation-files.ts'
import { workerRoot } from './runner-link.ts'

/** Set by the plugin: the paths of its option `expectations`, as JSON. */
export const LISTED_VARIABLE = 'KVITEST_EXPECTATIONS'

const known = new Map<string, ExpectationFile[]>()

/** Nearest first; none in a project without the plugin. Throws a KvitestError that names `file:line`. */
export function expectationsOf(testFile: string): ExpectationFile[] {
  const root = workerRoot()
  if (root === undefined) return []
  const key = `${root}\0${testFile}`
  let files = known.get(key)
  if (!files) {
    const listed = JSON.parse(process.env[LISTED_VARIABLE] || '[]') as string[]
    files = expectationFilesFor(testFile, { root, listed })
    known.set(key, files)
  }
  return files
}

export function allowedSplatsOf(testFile: string): AllowedSplat[] {
  return expectationsOf(testFile).flatMap((file) => file.splats)
}

export function circumstancesOf(test: TestName, place: Place): Circumstances {
  return { test, place, files: expectationsOf(test.file), now: new Date() }
}

/** Where the guest of a test ran, as far as anybody told. */
export function placeOf({ kvitestPlace, kvitestGuest }: TaskMeta): Place {
  return (
    kvitestPlace ??
    (kvitestGuest ? { kernelRelease: kvitestGuest.kernelRelease, host: kvitestGuest.host } : {})
  )
}
