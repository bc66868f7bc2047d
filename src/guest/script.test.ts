import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { loadScript } from './script.ts'

let folder: string

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvitest-script-'))
})

afterAll(() => {
  rmSync(folder, { recursive: true })
})

function file(name: string, text: string, mode = 0o644): string {
  const path = join(folder, name)
  writeFileSync(path, text, { mode })
  return path
}

const text = async (script: string) => (await loadScript(script)).data.toString()

test('a file is read with its name; it needs no execute bit', async () => {
  const path = file('a b.tap.sh', '#!/bin/sh\necho 1..0\n')
  expect(await loadScript(path)).toEqual({ name: 'a_b.tap.sh', data: Buffer.from('#!/bin/sh\necho 1..0\n') })
})

test('text that begins with #! is the script', async () => {
  expect(await text('#!/bin/busybox ash\nx')).toBe('#!/bin/busybox ash\nx')
})

test('text that begins with a newline is for /bin/sh, or for whom its #! names', async () => {
  expect(await text('\necho 1\n')).toBe('#!/bin/sh\necho 1\n')
  expect(await text('\n  #!/bin/cat\nx')).toBe('#!/bin/cat\nx')
})

test.for([
  ['empty.sh', '', 'the script is empty; begin it with #!/bin/sh'],
  ['plain.sh', 'echo 1..0\n', "the script's first line is not #!; begin it with #!/bin/sh"],
  ['binary', '\x7fELF\x02\x01', "the script's first line is not #!; begin it with #!/bin/sh"],
  ['nobody.sh', '#!\necho\n', '#! names no interpreter; begin it with #!/bin/sh'],
] as const)('%s is refused', async ([name, content, message]) => {
  const path = file(name, content)
  await expect(loadScript(path)).rejects.toThrow(`run script: ${path}: ${message}`)
})

test('Windows line ends are named, with the cure', async () => {
  const path = file('crlf.sh', '#!/bin/sh\r\necho\r\n')
  await expect(loadScript(path)).rejects.toThrow(
    `the script has Windows line ends (CR LF); sed -i 's/\\r$//' ${path}`,
  )
})

test('a file that is not there, or is a directory, is refused', async () => {
  await expect(loadScript(join(folder, 'none.sh'))).rejects.toThrow(
    'none.sh: no such file; give a path, or text that begins with #! or a newline',
  )
  await expect(loadScript(folder)).rejects.toThrow('a directory')
})

test('nothing but blanks is empty', async () => {
  await expect(loadScript('\n  \n')).rejects.toThrow('the script is empty')
  await expect(loadScript('')).rejects.toThrow('no script')
})
