import { execFileSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { rerunCommand, shellWord } from './rerun.ts'

const names = [
  'plain',
  'every CPU came up',
  `it's "quoted" and 'quoted'`,
  '$HOME `id` $(id) \\',
  'a+b (c) [d] {2} x? ^y$ a|b .*',
  'trailing blank ',
  '!history & ; < > # ~ * ?',
  'ünïcode — 漢字',
]

/** The words that a shell makes of a command. */
function wordsOf(command: string): string[] {
  const program = 'process.stdout.write(JSON.stringify(process.argv.slice(1)))'
  const shell = `${shellWord(process.execPath)} -e ${shellWord(program)} -- ${command}`
  return JSON.parse(execFileSync('/bin/sh', ['-c', shell], { encoding: 'utf8' }))
}

test.for(names)('the shell gives %j back as it was', (name) => {
  expect(wordsOf(shellWord(name))).toEqual([name])
})

test.for(names)('the pattern of %j matches it, and nothing that it is a part of', (name) => {
  const command = rerunCommand({ file: 'a.tap.sh', test: `cpus=2 > ${name}` })
  const words = wordsOf(command.slice('npx vitest run '.length))
  const pattern = new RegExp(words[words.indexOf('-t') + 1]!)
  expect(`cpus=2 > ${name}`).toMatch(pattern)
  expect(`cpus=2 > ${name}x`).not.toMatch(pattern)
  expect(`x cpus=2 > ${name}`).not.toMatch(pattern)
})

test('host, kernel, project and file are named', () => {
  expect(
    rerunCommand({
      file: 'suites/virtio/rng.tap.sh',
      project: 'virtio (debian:6.1-cloud)',
      test: 'entropy flows',
      host: 'lab:debian:6.12-cloud',
      kernel: './my kernel/bzImage',
      config: 'other.config.ts',
    }),
  ).toBe(
    "KVITEST_HOST=lab:debian:6.12-cloud KVITEST_KERNEL='./my kernel/bzImage' npx vitest run suites/virtio/rng.tap.sh --config other.config.ts --project 'virtio (debian:6.1-cloud)' -t '^entropy flows$'",
  )
})

test('a block is all of its tests, a file without either is all of it', () => {
  expect(rerunCommand({ file: 'a.tap.sh', block: 'cpus=2' })).toBe("npx vitest run a.tap.sh -t '^cpus=2 > '")
  expect(rerunCommand({ file: '-odd.tap.sh', project: '' })).toBe('npx vitest run ./-odd.tap.sh')
})
