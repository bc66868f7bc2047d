import { expect, test } from 'vitest'
import { allowedSplat, expectedFailure, isExpired, parseExpectations } from './expectations.ts'

const file = 'suites/a.expect.yaml'
const text = `
failures:
  - test: 'console.tap.sh > * > port echoes (twice)'
    kernel: '>=6.1 <6.2'
    host: 'lab:*'
    reason: the driver loses a wake-up
    link: https://example.org/1
    expires: 2027-01-31
  - test: 'rng.tap.sh > *'
    reason: slow
    link: https://example.org/2
    expires: 2027-01-31
splats:
  - pattern: 'WARNING: .* at drivers/virtio/'
    reason: harmless
    link: https://example.org/3
    expires: 2027-01-31
`
const parsed = parseExpectations(text, file)
const here = { kernelRelease: '6.1.0-56-cloud-amd64', host: 'lab:debian:6.12-cloud' }

test('an entry matches by test, kernel and host', () => {
  const name = 'console.tap.sh > cpus=2 > port echoes (twice)'
  expect(expectedFailure(parsed, name, here)).toMatchObject({
    source: `${file}:3`,
    reason: 'the driver loses a wake-up',
  })
  expect(expectedFailure(parsed, `${name}!`, here)).toBeUndefined()
  expect(expectedFailure(parsed, name, { ...here, host: 'local' })).toBeUndefined()
  expect(
    expectedFailure(parsed, name, { ...here, kernelRelease: '6.12.117+deb12-cloud-amd64' }),
  ).toBeUndefined()
})

test('an entry for some kernels excuses no guest that never said which it is', () => {
  const name = 'console.tap.sh > cpus=2 > port echoes (twice)'
  expect(expectedFailure(parsed, name, { host: 'lab:x' })).toBeUndefined()
  expect(expectedFailure(parsed, 'rng.tap.sh > anything', { host: 'local' })?.reason).toBe('slow')
})

test('a splat is allowed by its title', () => {
  const title = 'WARNING: CPU: 0 PID: 1 at drivers/virtio/virtio.c:1 f+0x0/0x1'
  expect(allowedSplat(parsed, title, here)?.reason).toBe('harmless')
  expect(allowedSplat(parsed, 'BUG: scheduling while atomic', here)).toBeUndefined()
})

test('an entry is believed to the end of its last day', () => {
  const [entry] = parsed.failures
  expect(isExpired(entry!, new Date(2027, 0, 31, 23, 59, 59))).toBe(false)
  expect(isExpired(entry!, new Date(2027, 1, 1))).toBe(true)
})

test('a file of comments only expects nothing', () => {
  expect(parseExpectations('# none\n', file)).toEqual({ failures: [], splats: [] })
})

const entry = (changes: string) => `failures:
  - test: a
    reason: b
    link: c
    expires: 2027-01-31
${changes}`

test.for([
  ['failures: 3', /a\.expect\.yaml:1: failures: want a list/],
  ['expected: []', /:1: unknown key 'expected'/],
  ['failures:\n  - just text', /:2: want \{ test, reason/],
  ['failures:\n  - test: a\n    reason: b\n    link: c', /:2: an entry without 'expires'/],
  ['splats:\n  - reason: b\n    link: c\n    expires: 2027-01-31', /an entry without 'pattern'/],
  [entry('    until: x'), /:6: unknown key 'until'; there are test, reason/],
  [entry('    kernel: newest'), /:6: kernel: newest is no range/],
  [entry('    host: 5'), /:6: host: want text/],
  [entry('').replace('2027-01-31', 'soon'), /:5: expires: soon is no day/],
  [
    'splats:\n  - pattern: "("\n    reason: b\n    link: c\n    expires: 2027-01-31',
    /:2: pattern: .*[Ii]nvalid/,
  ],
  ['failures: [', /a\.expect\.yaml:1: /],
] as const)('%j is refused with its line', ([text, message]) => {
  expect(() => parseExpectations(text, file)).toThrow(message)
})
