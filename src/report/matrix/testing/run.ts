/** A run for tests: two tools on two hosts, whose tools and files say what could be taken for markup. */
import type { CellRecord } from '../../../matrix/account.ts'
import { cellAxes } from '../../../matrix/axes.ts'
import type { PointResult } from '../../../matrix/tool.ts'
import { type MatrixReport, matrixReport, type RanCell, type ReportedPoint } from '../report.ts'

/** Breaks out of text, of an attribute, of a comment, a style and a script, if anything lets it. */
export const hostile = `<script>document.title='broken'</script>"'><img src=x onerror="document.title='broken'">--></style></pre>&amp;\u001b[31m`

export function point(
  name: string,
  verdict: PointResult['verdict'],
  rest: Partial<ReportedPoint> = {},
): ReportedPoint {
  return { name, verdict, reason: '', duration: 10, output: '', isRed: false, problems: [], ...rest }
}

export function ranCell(
  id: string,
  points: ReportedPoint[],
  rest: Partial<CellRecord> = {},
): [string, RanCell] {
  const record: CellRecord = {
    matrix: 'old and new',
    id,
    ...cellAxes(id),
    verdict: 'pass',
    reason: '',
    points: {},
    ...rest,
  }
  return [id, { record, rerun: `npx vitest run -t '^${id} > '`, points }]
}

export function sampleReport(rest: Partial<MatrixReport> = {}): MatrixReport {
  const expected = [
    'lab:debian:6.1-cloud > selftests-6.1',
    'lab:debian:6.1-cloud > qemu-7.2 > debian:6.12-cloud',
    'lab:debian:6.12-cloud > selftests-6.1',
    'lab:debian:6.12-cloud > qemu-7.2 > debian:6.12-cloud',
    'local > selftests-6.1',
  ]
  const known = {
    reason: hostile,
    link: 'javascript:alert(1)',
    source: 'x.expect.yaml:3',
    expires: '2999-12-31',
  }
  const about = {
    hostKernel: '6.1.0-50-cloud-amd64',
    hostAccelerator: 'tcg',
    toolVersion: '6.1.192',
    toolHash: 'a'.repeat(64),
  }
  const compared = (id: string) => ({ baseline: id.replace('lab:debian:6.12', 'lab:debian:6.1') })
  const ran = new Map([
    ranCell(
      expected[0]!,
      [
        point('state_test', 'pass', { output: hostile }),
        point('steal_time', 'skip', { reason: 'no source' }),
      ],
      about,
    ),
    ranCell(expected[1]!, [point('the run', 'pass')], about),
    ranCell(
      expected[2]!,
      [
        point('state_test', 'fail', {
          reason: hostile,
          isRed: true,
          output: hostile,
          problems: [hostile],
          rerun: hostile,
        }),
        point('steal_time', 'fail', { reason: 'exit status 254', expected: known }),
        point(hostile, 'pass'),
      ],
      { ...about, ...compared(expected[2]!), hostKernel: hostile },
    ),
    ranCell(
      expected[3]!,
      [point('the run', 'fail', { expected: { ...known, link: 'https://example.org/1' } })],
      compared(expected[3]!),
    ),
  ])
  const report = matrixReport({
    kvitest: '0.1.0',
    matrix: 'old and new',
    file: 'suites/compat/compat.matrix.ts',
    project: 'compat',
    started: '2026-11-23T00:00:00.000Z',
    isPart: false,
    problems: [],
    expected,
    ran,
  })
  return { ...report, ...rest }
}
