import { gzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { compareCells } from './account.ts'
import { type FingerprintDifference, judgeFingerprint, sections } from './fingerprint.ts'
import { pointResults, tapResults } from './outcome.ts'
import type { Fingerprint, PointResult } from './tool.ts'

/** As the smoke script prints it. */
function comments(lines: string[]): string {
  const text = gzipSync(lines.map((line) => `${line}\n`).join('')).toString('base64')
  return text.replace(/.{1,76}/g, '# fingerprint $&\n')
}

function results(stdout: string): Map<string, PointResult> {
  const end = { status: 0, signal: null, expired: false, duration: 1, lost: 0, stderr: '' }
  return tapResults({ ...end, stdout }, 1000)
}

const point = (fingerprint: Fingerprint): PointResult => ({ verdict: 'pass', output: '', fingerprint })
const judge = (before: Fingerprint, after: Fingerprint, declared: FingerprintDifference[] = []) =>
  judgeFingerprint('fingerprint cpuid', point(after), { host: 'lab:old', result: point(before) }, declared)

describe('a fingerprint', () => {
  const lines = ['cpuid\t1 eax\t0f', 'msr\tEFER\td01', 'dmesg\tWARNING: a\tsaid']

  test('comes out of the comments of one point, a point for each section', () => {
    const found = results(`ok 1 - a\n${comments(lines)}ok 2 - fingerprint\n1..2\n`)

    expect([...found.keys()]).toEqual(['a', ...sections.map((one) => `fingerprint ${one}`), 'the run'])
    expect(found.get('fingerprint cpuid')).toEqual({
      verdict: 'pass',
      output: '1 eax: 0f',
      fingerprint: { '1 eax': '0f' },
    })
    // It may have nothing to say there, and nowhere else.
    expect(found.get('fingerprint pci')).toMatchObject({ verdict: 'fail', reason: 'the guest did not say' })
  })

  test.each([
    ['cut short', comments(lines).slice(0, 60)],
    ['no base64', '# fingerprint %%%\n'],
    ['absent', ''],
    ['a bomb', comments([`cpuid\tx\t${'0'.repeat(1 << 21)}`])],
  ])('that is %s passes no section', (_, said) => {
    const found = results(`${said}\nok 1 - fingerprint\n1..1\n`)
    for (const section of sections) expect(found.get(`fingerprint ${section}`)?.verdict).toBe('fail')
  })

  test('a script without one has no such points', () => {
    expect([...pointResults([]).keys()]).toEqual([])
  })
})

describe('beside the baseline', () => {
  test('equal ones pass', () => {
    expect(judge({ a: '1' }, { a: '1' }).result.verdict).toBe('pass')
  })

  test('each value that differs is a line less and a line more', () => {
    const { result } = judge({ same: '0', a: '1', gone: '2' }, { same: '0', a: '3', new: '4' })

    expect(result.verdict).toBe('fail')
    expect(result.reason).toBe('3 values differ from lab:old: -cpuid a: 1 +cpuid a: 3')
    expect(result.output.split('\n').slice(0, 6)).toEqual([
      '-cpuid a: 1',
      '+cpuid a: 3',
      '-cpuid gone: 2',
      '+cpuid gone: (absent)',
      '-cpuid new: (absent)',
      '+cpuid new: 4',
    ])
  })

  test('what is declared is no failure, and the output says why', () => {
    const known = { key: 'cpuid 1 *', reason: 'a new bit' }
    const { result, used } = judge({ '1 eax': '1' }, { '1 eax': '3' }, [known])

    expect(result.verdict).toBe('pass')
    expect(result.output).toContain('+cpuid 1 eax: 3 (a new bit)')
    expect(used).toEqual([known])
    expect(judge({ '2 eax': '1' }, { '2 eax': '3' }, [known]).result.verdict).toBe('fail')
    expect(judge({ a: '1' }, { a: '1' }, [known]).used).toEqual([])
  })

  test('without one there it fails: nothing was compared', () => {
    const other: PointResult = { verdict: 'infra', reason: 'no lab', output: '' }
    const { result } = judgeFingerprint(
      'fingerprint cpuid',
      point({ a: '1' }),
      { host: 'lab:old', result: other },
      [],
    )
    expect(result).toMatchObject({
      verdict: 'fail',
      reason: 'not compared: lab:old has none (infra: no lab)',
    })
  })

  test('a cell shows values, declared or not', () => {
    const [before, after] = [{ a: '1' }, { a: '2' }].map((one) => new Map([['fingerprint msr', point(one)]]))
    expect(compareCells(before!, after!)).toEqual(['-msr a: 1', '+msr a: 2'])
  })
})
