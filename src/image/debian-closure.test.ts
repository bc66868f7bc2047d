import { copyFile, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { runCommand } from './command.ts'
import { copyPrograms } from './debian-closure.ts'

async function scratch(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'kvitest-closure-'))
  onTestFinished(() => rm(path, { recursive: true, force: true }))
  return path
}

async function compile(path: string, code: string, ...flags: string[]): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  await writeFile(`${path}.c`, code)
  const result = await runCommand(['gcc', '-o', path, `${path}.c`, ...flags])
  await rm(`${path}.c`)
  if (result.status !== 0) throw new Error(result.stderr)
}

/** A tree as packages unpack to: a program, a library it needs, one that this needs, and one nobody needs. */
async function tree(): Promise<string> {
  const root = await scratch()
  const libraries = join(root, 'usr/lib/x86_64-linux-gnu')
  const shared = ['-shared', '-fPIC', '-nostdlib', `-L${libraries}`]
  await compile(join(libraries, 'libdeep.so.1'), 'int deep(void) { return 3; }', ...shared)
  await compile(join(libraries, 'libidle.so.1'), 'int idle(void) { return 0; }', ...shared)
  const code = 'int deep(void); int near(void) { return deep(); }'
  await compile(
    join(libraries, 'libnear.so.1.2'),
    code,
    ...shared,
    '-Wl,-soname,libnear.so.1',
    '-l:libdeep.so.1',
  )
  await symlink('libnear.so.1.2', join(libraries, 'libnear.so.1'))
  const main = 'int near(void); void _start(void) { __asm__("syscall" :: "a"(60), "D"(near())); }'
  const flags = ['-nostdlib', `-L${libraries}`, '-l:libnear.so.1', `-Wl,-rpath-link,${libraries}`]
  await compile(join(root, 'usr/bin/tool'), main, ...flags)
  await mkdir(join(root, 'lib64'))
  await copyFile('/lib64/ld-linux-x86-64.so.2', join(root, 'lib64/ld-linux-x86-64.so.2'))
  return root
}

test('a program comes with its loader and all that it loads, and with nothing else', async () => {
  const [from, to] = [await tree(), await scratch()]
  await copyPrograms(from, ['usr/bin/tool'], to)
  const found = await readdir(to, { recursive: true, withFileTypes: true })
  expect(
    found
      .filter((one) => one.isFile())
      .map((one) => one.name)
      .sort(),
  ).toEqual(['ld-linux-x86-64.so.2', 'libdeep.so.1', 'libnear.so.1', 'tool'])
  const libraries = join(to, 'lib/x86_64-linux-gnu')
  const argv = [join(to, 'lib64/ld-linux-x86-64.so.2'), '--library-path', libraries, join(to, 'bin/tool')]
  expect((await runCommand(argv)).status).toBe(3)
})

test('a library that no package brought is named', async () => {
  const from = await tree()
  await rm(join(from, 'usr/lib/x86_64-linux-gnu/libdeep.so.1'))
  await expect(copyPrograms(from, ['usr/bin/tool'], await scratch())).rejects.toThrow(
    'usr/bin/tool needs libdeep.so.1, which no package brought',
  )
})
