import type { CheckMeta } from '../claim.ts'

/** What one check came to on one host. */
export interface Row {
  /** The project: `kvm (lab 6.1)`. */
  project: string
  name: string
  passed: boolean
  check: CheckMeta
}

/** The part of vitest's JSON report that is read here. */
interface JsonReport {
  testResults: {
    assertionResults: { fullName: string; status: string; meta?: { kvitestCheck?: CheckMeta } }[]
  }[]
}

/** Rows of a file that vitest's `--reporter=json` wrote; the project is the host's name. */
export function rowsOf(text: string): Row[] {
  const { testResults } = JSON.parse(text) as JsonReport
  return testResults.flatMap(({ assertionResults }) =>
    assertionResults.flatMap(({ fullName, status, meta }) =>
      meta?.kvitestCheck
        ? [
            {
              project: meta.kvitestCheck.host,
              name: fullName,
              passed: status === 'passed',
              check: meta.kvitestCheck,
            },
          ]
        : [],
    ),
  )
}
