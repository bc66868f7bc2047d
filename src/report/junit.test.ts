import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { type JUnitCase, type JUnitSuite, junitXml } from './junit.ts'

const SCHEMA = join(import.meta.dirname, 'junit.xsd')

function suite(cases: JUnitCase[], more: Partial<JUnitSuite> = {}): JUnitSuite {
  return { name: 's', duration: 1500, properties: { kernel: 'debian:6.1-cloud' }, cases, ...more }
}

function one(more: Partial<JUnitCase>): JUnitCase {
  const plain = {
    classname: 'a.b',
    name: 'n',
    duration: 0,
    outcome: { kind: 'passed' },
    earlierFailures: [],
  } as const
  return { ...plain, earlierFailures: [], ...more }
}

const problem = (message: string) => ({ message, type: 'Error', details: `Error: ${message}\n    at x` })

function validate(xml: string): string {
  const { status, stderr } = spawnSync('xmllint', ['--noout', '--schema', SCHEMA, '-'], {
    input: xml,
    encoding: 'utf8',
  })
  return status === 0 ? 'valid' : stderr
}

const EVERYTHING = [
  suite(
    [
      one({ name: 'ok', file: 'a.tap.sh', line: 3, startTime: 1_700_000_000_000, output: 'out' }),
      one({ name: 'skipped', outcome: { kind: 'skipped', reason: 'no <device> & "more"' } }),
      one({ name: 'skipped without reason', outcome: { kind: 'skipped', reason: undefined } }),
      one({ name: 'failed', outcome: { kind: 'failed', problems: [problem('one'), problem('two')] } }),
      one({
        name: 'failed again',
        outcome: { kind: 'failed', problems: [problem('x')] },
        earlierFailures: [problem('y')],
      }),
      one({ name: 'flaky', earlierFailures: [problem('z')] }),
      one({ name: 'died', outcome: { kind: 'error', problems: [problem('no result')] } }),
    ],
    { file: 'a.tap.sh', startTime: 1_700_000_000_000, output: 'console\r\nof the guest ]]> <x>' },
  ),
  suite([]),
]

test('every kind of result is valid after the schema', () => {
  expect(validate(junitXml(EVERYTHING))).toBe('valid')
})

test('the counts say what the test cases say', () => {
  const xml = junitXml(EVERYTHING)
  expect(xml).toContain('<testsuites name="kvitest" tests="7" failures="2" errors="1" skipped="2">')
})

test('skip reasons, several failures, flaky and repeated failures are written', () => {
  const xml = junitXml(EVERYTHING)
  expect(xml).toContain('<skipped message="no &lt;device> &amp; &quot;more&quot;"/>')
  expect(xml.match(/<failure /g)).toHaveLength(3)
  expect(xml.match(/<flakyFailure message="z"/g)).toHaveLength(1)
  expect(xml.match(/<rerunFailure message="y"/g)).toHaveLength(1)
})

test('characters that XML 1.0 cannot carry, and colours, are removed', () => {
  const dirty = 'a\u0000b\u001b[31mred\u001b[0m\u0008\ufffe\ud800c\u{1f600}'
  const xml = junitXml([suite([one({ name: dirty, output: dirty })], { name: dirty, output: dirty })])
  expect(validate(xml)).toBe('valid')
  expect(xml).toContain('name="abred\ufffdc\u{1f600}"')
})

test('the schema refuses elements out of order and unknown outcomes', () => {
  const xml = junitXml(EVERYTHING)
  expect(validate(xml.replace('<properties>', '<system-out/><properties>'))).toContain('not expected')
  expect(validate(xml.replaceAll('skipped message', 'ignored message'))).toContain('not expected')
  expect(validate(xml.replace('tests="7"', 'tests="many"'))).toContain('tests')
})
