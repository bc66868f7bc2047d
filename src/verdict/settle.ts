import {
  appliesTo,
  describeEntry,
  type Entry,
  type ExpectationFile,
  type ExpectedFailure,
  entryFor,
  fullName,
  globMatches,
  isExpired,
  type Place,
  type TestName,
} from './expectations.ts'

/** How one attempt of a test ended. */
export type Observed =
  | { state: 'pass' }
  /** What is our own fault, or proves nothing about the guest, no entry may excuse. */
  | { state: 'fail'; isExcusable: boolean }

/** What a test comes to under what is expected of it. `message` is one line for the report. */
export type Settlement =
  | { kind: 'as-is' }
  | { kind: 'expected-failure'; entry: ExpectedFailure; message: string }
  | { kind: 'unexpected-pass'; entry: ExpectedFailure; message: string }
  | { kind: 'expired'; entry: ExpectedFailure; message: string }

/** A test, where its guest ran, what is expected of it, and today. */
export interface Circumstances {
  test: TestName
  place: Place
  /** Nearest first. */
  files: readonly ExpectationFile[]
  now: Date
}

/** The outcome of one attempt of a test under the expectations: the one place that decides it. */
export function settleTest(observed: Observed, { test, place, files, now }: Circumstances): Settlement {
  const entry = entryFor('failures', files, test, place)
  if (!entry) return { kind: 'as-is' }
  if (observed.state === 'pass') {
    const message = `unexpected pass: ${describeEntry(entry)}; remove the entry when it is fixed`
    return { kind: 'unexpected-pass', entry, message }
  }
  if (!observed.isExcusable) return { kind: 'as-is' }
  if (isExpired(entry, now)) {
    const message = `it still fails, and the entry that expects it expired on ${entry.expires}: ${describeEntry(entry)}`
    return { kind: 'expired', entry, message }
  }
  return { kind: 'expected-failure', entry, message: `expected failure: ${describeEntry(entry)}` }
}

/** A point, or a whole script, that skipped itself. */
export interface Skip {
  /** As the script's header has it: the point's full name, `script` for the whole script. */
  name: string
  reason: string | undefined
  /** Globs of the names that the header declares. */
  declared: readonly string[]
}

/** Why a skip is a failure, one line; undefined when it was declared and says why. */
export function settleSkip(
  { name, reason, declared }: Skip,
  { test, place, files, now }: Circumstances,
): string | undefined {
  if (reason === undefined) return 'skipped without a reason; say why: ok 1 - name # SKIP reason'
  if (declared.some((glob) => globMatches(glob, name))) return undefined
  const entry = entryFor('skips', files, test, place)
  if (!entry) {
    const allow = `'# skips: [${JSON.stringify(name)}]' in its header, or a 'skips:' entry in an *.expect.yaml`
    return `skipped (${reason}), and nothing declares that it may; to allow it write ${allow}`
  }
  if (!isExpired(entry, now)) return undefined
  return `skipped (${reason}), and the entry that allows it expired on ${entry.expires}: ${describeEntry(entry)}`
}

/** A test that a run had, and where. */
export interface RunTest {
  test: TestName
  place: Place
}

/**
 * The entries of a file that nothing answered to, in a run of everything that the file may speak of. An entry for a
 * kernel or a host that the run did not have is not among them. `places`: of all guests of that run; `allowed`: the
 * sources of the entries that allowed a splat.
 */
export function staleEntries(
  file: ExpectationFile,
  run: {
    tests: readonly RunTest[]
    places: readonly Place[]
    allowed: ReadonlySet<string>
    /** Of an entry's `test`: no run of these projects has it, whatever its name is worth. */
    isLeftOut?: (test: string) => boolean
  },
): Entry[] {
  const named = run.tests.map(({ test, place }) => ({ name: fullName(file.base, test), place }))
  const isWithin = (places: readonly Place[]) => (entry: Entry) =>
    places.some((place) => appliesTo(entry, place))
  // A test may do without a guest, a splat may not.
  const [hasTests, hasGuests] = [isWithin([{}, ...run.places]), isWithin(run.places)]
  const isNamed = (entry: ExpectedFailure) =>
    named.some(({ name, place }) => globMatches(entry.test, name) && appliesTo(entry, place))
  return [
    ...[...file.failures, ...file.skips].filter(
      (entry) => hasTests(entry) && !isNamed(entry) && !run.isLeftOut?.(entry.test),
    ),
    ...file.splats.filter((entry) => hasGuests(entry) && !run.allowed.has(entry.source)),
  ]
}
