import { expect, test } from 'vitest'
import {
  allowanceFor,
  allowancesAt,
  describeEntry,
  entryFor,
  isExpired,
  parseExpectations,
} from './expectations.ts'

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
const parsed = { ...parseExpectations(text, file), path: `/root/${file}`, base: '/root/suites' }
const here = { kernelRelease: '6.1.0-56-cloud-amd64', host: 'lab:debian:6.12-cloud' }

const today = new Date(2027, 0, 1)
const echoes = (name: string) => ({ file: '/root/suites/console.tap.sh', path: ['cpus=2', name] })

test('an entry matches by test, kernel and host', () => {
  const name = echoes('port echoes (twice)')
  expect(entryFor('failures', [parsed], name, here)).toMatchObject({
    source: `${file}:3`,
    reason: 'the driver loses a wake-up',
  })
  const others = [
    entryFor('failures', [parsed], echoes('port echoes (twice)!'), here),
    entryFor('failures', [parsed], name, { ...here, host: 'local' }),
    entryFor('failures', [parsed], name, { ...here, kernelRelease: '6.12.117+deb12-cloud-amd64' }),
    entryFor('failures', [{ ...parsed, base: '/root' }], name, here),
    entryFor('skips', [parsed], name, here),
  ]
  expect(others).toEqual(others.map(() => undefined))
})

test('what mends it is shown with an entry', () => {
  const fixed = `skips: [{ test: a, reason: r, fixed-by: 'v6.13 (0123456789ab)' }]`
  const [entry] = parseExpectations(fixed, file).skips
  expect(describeEntry(entry!)).toBe(`${file}:1: r, fixed by v6.13 (0123456789ab)`)
})

test('the nearest file that names a test decides', () => {
  const all = "failures: [{ test: '*', reason: all, link: l, expires: 2027-01-31 }]"
  const far = { ...parseExpectations(all, 'far.expect.yaml'), path: '/root/far.expect.yaml', base: '/root' }
  const reasons = [parsed, far].map(
    (_, at, files) =>
      entryFor('failures', at === 0 ? files : files.toReversed(), echoes('port echoes (twice)'), here)
        ?.reason,
  )
  expect(reasons).toEqual(['the driver loses a wake-up', 'all'])
})

test('an entry for some kernels or hosts excuses no guest that never said which it is', () => {
  expect(entryFor('failures', [parsed], echoes('port echoes (twice)'), { host: 'lab:x' })).toBeUndefined()
  expect(
    entryFor('failures', [parsed], echoes('port echoes (twice)'), { kernelRelease: '6.1.0' }),
  ).toBeUndefined()
  const anything = { file: '/root/suites/rng.tap.sh', path: ['anything'] }
  expect(entryFor('failures', [parsed], anything, {})?.reason).toBe('slow')
})

test('a splat is allowed by its title', () => {
  const title = 'WARNING: CPU: 0 PID: 1 at drivers/virtio/virtio.c:1 f+0x0/0x1'
  const allowances = allowancesAt(parsed.splats, here, today)
  expect(allowanceFor(allowances, title)).toMatchObject({ reason: 'harmless', isExpired: false })
  expect(allowanceFor(allowances, 'BUG: scheduling while atomic')).toBeUndefined()
  expect(allowancesAt(parsed.splats, here, new Date(2028, 0, 1))[0]?.isExpired).toBe(true)
  expect(allowancesAt([{ ...parsed.splats[0]!, host: 'local' }], here, today)).toEqual([])
})

test('a skip needs no link and no last day', () => {
  const { skips } = parseExpectations("skips: [{ test: 'a > b', reason: no device }]", file)
  expect(skips).toEqual([{ test: 'a > b', reason: 'no device', source: `${file}:1` }])
  expect(isExpired(skips[0]!, new Date(2100, 0, 1))).toBe(false)
})

test('an entry is believed to the end of its last day', () => {
  const [entry] = parsed.failures
  expect(isExpired(entry!, new Date(2027, 0, 31, 23, 59, 59))).toBe(false)
  expect(isExpired(entry!, new Date(2027, 1, 1))).toBe(true)
})

test('a file of comments only expects nothing', () => {
  expect(parseExpectations('# none\n', file)).toEqual({ failures: [], splats: [], skips: [] })
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
  ['skips:\n  - test: a', /an entry without 'reason'/],
  ['skips:\n  - test: a\n    reason: b\n    expires: soon', /:4: expires: soon is no day/],
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
