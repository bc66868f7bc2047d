import { expect, test } from 'vitest'
import { compareVersions, upstreamVersion } from './debian-version.ts'

test.for([
  ['6.12.115-1~deb12u1', '6.12.117-1~deb12u1'],
  ['6.1.99-1', '6.1.187-1'],
  ['6.12.117-1~deb12u1', '6.12.117-1'],
  ['6.12~rc7-1', '6.12-1'],
  ['9.9-1', '1:0.1-1'],
  ['1.0a-1', '1.0+b-1'],
] as const)('%s is older than %s', ([older, newer]) => {
  expect(compareVersions(older, newer)).toBeLessThan(0)
  expect(compareVersions(newer, older)).toBeGreaterThan(0)
})

test('leading zeros do not matter', () => {
  expect(compareVersions('6.01.2-1', '6.1.2-1')).toBe(0)
})

test('the upstream version has neither epoch nor revision', () => {
  expect(upstreamVersion('1:6.12.117-1~deb12u1')).toBe('6.12.117')
})
