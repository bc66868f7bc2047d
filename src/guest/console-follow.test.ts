/** The consoles of chosen guests on a process's stderr: in a process of its own, whose stderr it is. */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { expect, test } from 'vitest'

const at = (name: string) => JSON.stringify(join(import.meta.dirname, name))
const program = `
import { SerialLog } from ${at('console-log.ts')}
import { followConsole } from ${at('console-follow.ts')}
const guests = ['rng.tap.sh cpus=1', 'rng.tap.sh cpus=2', 'pci.tap.sh'].map((name) => ({ name, console: new SerialLog(name) }))
for (const { console } of guests) console.inherit('before the fork\\n')
for (const guest of guests) followConsole(guest)
for (const piece of ['one ', 'li', 'ne\\r\\nand', ' another\\n']) {
  for (const { console } of guests) console.push(Buffer.from(piece))
}
for (const { console } of guests) console.end('over')
`

function stderrOf(wanted: string | undefined): string {
  const { KVITEST_RUN: _, KVITEST_CONSOLE: __, ...env } = process.env
  const { stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    env: { ...env, ...(wanted === undefined ? {} : { KVITEST_CONSOLE: wanted }) },
    encoding: 'utf8',
  })
  expect(status, stderr).toBe(0)
  return stderr
}

test('whole lines, each with the name of its guest; only of the guests asked for, only what is new', () => {
  expect(stderrOf('rng*')).toBe(
    [
      'rng.tap.sh cpus=1 | one line',
      'rng.tap.sh cpus=2 | one line',
      'rng.tap.sh cpus=1 | and another',
      'rng.tap.sh cpus=2 | and another',
      '',
    ].join('\n'),
  )
})

test('nothing unless it is asked for', () => {
  expect(stderrOf(undefined)).toBe('')
})
