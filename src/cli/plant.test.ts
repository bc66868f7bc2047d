import { execFileSync, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { expect, test } from 'vitest'

const kvitest = join(import.meta.dirname, '../../scripts/kvitest')

/** How a command ends with something planted that it does not meet. */
function ended(...command: string[]): number | null {
  return spawnSync(kvitest, ['plant', 'thread-of-vm', '--', ...command]).status
}

test('the command ends as it does by itself', () => {
  expect(ended('sh', '-c', 'exit 7')).toBe(7)
  expect(ended('sh', '-c', 'kill -TERM $$')).toBe(143)
  expect(ended('sh', '-c', 'sleep 0.1 & wait; (exit 3); exit $?')).toBe(3)
  expect(execFileSync(kvitest, ['plant', 'thread-of-vm', '--', 'echo', 'a', 'b']).toString()).toBe('a b\n')
})

test('what cannot be planted or run is said in one line', () => {
  const said = (...argv: string[]) => spawnSync(kvitest, ['plant', ...argv]).stderr.toString()
  expect(said('thread-of-vm')).toMatch(/^kvitest: .*no command.*\n$/)
  expect(said('--', 'true')).toMatch(/^kvitest: .*nothing to plant.*\n$/)
  expect(said('nothing', '--', 'true')).toMatch(/^kvitest: plant nothing: there is no such plant; give .*\n$/)
  expect(said('thread-of-vm', '--', '/no/such')).toBe('kvm-plant: /no/such: No such file or directory\n')
})
