import { describe, expect, test } from 'vitest'
import { type ExpectationFile, parseExpectations } from './expectations.ts'
import { type Circumstances, settleSkip, settleTest, staleEntries } from './settle.ts'

const text = `
failures:
  - { test: 'a.tap.sh > known', reason: slow, link: https://example.org/1, expires: 2027-01-31 }
  - { test: 'a.tap.sh > old', kernel: '<6.2', reason: slow, link: https://example.org/2, expires: 2027-01-31 }
splats:
  - { pattern: 'at kernel/fork', reason: noise, link: https://example.org/3, expires: 2027-01-31 }
skips:
  - { test: 'a.tap.sh > some*', reason: one CPU }
  - { test: 'a.tap.sh > late', reason: no device, expires: 2026-01-31 }
`
const file: ExpectationFile = {
  ...parseExpectations(text, 'a.expect.yaml'),
  path: '/r/a.expect.yaml',
  base: '/r',
}
const place = { kernelRelease: '6.12.1', host: 'local' }

function at(name: string, now = new Date(2027, 0, 1)): Circumstances {
  return { test: { file: '/r/a.tap.sh', path: [name] }, place, files: [file], now }
}

describe('a test', () => {
  const failed = { state: 'fail', isExcusable: true } as const

  test('that nothing is expected of is as it is', () => {
    expect(settleTest(failed, at('other'))).toEqual({ kind: 'as-is' })
    expect(settleTest({ state: 'pass' }, at('other'))).toEqual({ kind: 'as-is' })
  })

  test('that fails as it should is an expected failure', () => {
    expect(settleTest(failed, at('known'))).toMatchObject({
      kind: 'expected-failure',
      message: 'expected failure: a.expect.yaml:3: slow, https://example.org/1',
    })
  })

  test('that passes though it should fail is an unexpected pass, also under an entry that has expired', () => {
    const message =
      'unexpected pass: a.expect.yaml:3: slow, https://example.org/1; remove the entry when it is fixed'
    expect(settleTest({ state: 'pass' }, at('known'))).toMatchObject({ kind: 'unexpected-pass', message })
    expect(settleTest({ state: 'pass' }, at('known', new Date(2028, 0, 1))).kind).toBe('unexpected-pass')
  })

  test('that still fails when its entry has expired says so', () => {
    expect(settleTest(failed, at('known', new Date(2027, 1, 1)))).toMatchObject({
      kind: 'expired',
      message:
        'it still fails, and the entry that expects it expired on 2027-01-31: a.expect.yaml:3: slow, https://example.org/1',
    })
  })

  test('that fails through our own fault fails', () => {
    expect(settleTest({ state: 'fail', isExcusable: false }, at('known'))).toEqual({ kind: 'as-is' })
  })

  test('of another kernel is none of the entry', () => {
    expect(settleTest(failed, at('old'))).toEqual({ kind: 'as-is' })
  })
})

describe('a skip', () => {
  const skip = (name: string, declared: string[] = [], reason: string | undefined = 'one CPU') =>
    settleSkip({ name, reason, declared }, at(name))

  test('that nothing declares is a failure that says what to write', () => {
    expect(skip('one "x"')).toBe(
      `skipped (one CPU), and nothing declares that it may; to allow it write '# skips: ["one \\"x\\""]' in its header, ` +
        "or a 'skips:' entry in an *.expect.yaml",
    )
  })

  test('is allowed by the header or by an entry', () => {
    expect(skip('other', ['o*'])).toBeUndefined()
    expect(skip('something')).toBeUndefined()
  })

  test('without a reason is a failure whatever is declared', () => {
    expect(settleSkip({ name: 'other', reason: undefined, declared: ['*'] }, at('other'))).toMatch(
      /^skipped without a reason/,
    )
  })

  test('is not allowed by an entry that has expired', () => {
    expect(skip('late')).toBe(
      'skipped (one CPU), and the entry that allows it expired on 2026-01-31: a.expect.yaml:9: no device',
    )
  })
})

describe('entries that nothing answers to', () => {
  const run = (names: string[], allowed: string[] = [], places = [place]) =>
    staleEntries(file, {
      tests: names.map((name) => ({ test: { file: '/r/a.tap.sh', path: [name] }, place })),
      places,
      allowed: new Set(allowed),
    }).map(({ source }) => source)

  test('are told, but for those of kernels that the run did not have', () => {
    expect(run(['known', 'something', 'late'])).toEqual(['a.expect.yaml:6'])
    expect(run(['something'], ['a.expect.yaml:6'])).toEqual(['a.expect.yaml:3', 'a.expect.yaml:9'])
    expect(
      run(['known', 'something', 'late'], ['a.expect.yaml:6'], [{ kernelRelease: '6.1.3', host: 'local' }]),
    ).toEqual(['a.expect.yaml:4'])
  })

  test('of splats say nothing about a run without guests', () => {
    expect(run([], [], [])).toEqual(['a.expect.yaml:3', 'a.expect.yaml:8', 'a.expect.yaml:9'])
  })
})
