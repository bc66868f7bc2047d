import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type NewcEntry, withParents, writeNewc } from './newc.ts'

const run = promisify(execFile)
let directory: string

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'kvitest-newc-'))
})

afterEach(() => rm(directory, { recursive: true }))

const entries: NewcEntry[] = [
  { type: 'file', path: 'etc/name', mode: 0o644, data: Buffer.from('odd') },
  { type: 'symlink', path: 'bin/sh', mode: 0o777, target: 'busybox' },
  { type: 'file', path: 'bin/busybox', mode: 0o755, data: Buffer.alloc(4097, 7) },
]

test('busybox cpio unpacks what was written', async () => {
  const archive = join(directory, 'a.cpio')

  await writeNewc(archive, entries)

  await run('sh', ['-c', `mkdir x && cd x && /bin/busybox cpio -idm < ../a.cpio`], { cwd: directory })
  const { stdout } = await run('find', ['x', '-mindepth', '1', '-printf', '%P %y %m %l\n'], {
    cwd: directory,
  })
  expect(
    stdout
      .trim()
      .split('\n')
      .map((line) => line.trim())
      .sort(),
  ).toEqual(['bin d 755', 'bin/busybox f 755', 'bin/sh l 777 busybox', 'etc d 755', 'etc/name f 644'])
  expect(await readFile(join(directory, 'x/etc/name'), 'utf8')).toBe('odd')
  expect(await readFile(join(directory, 'x/bin/busybox'))).toEqual(Buffer.alloc(4097, 7))
})

test('the order of the entries does not change the bytes', async () => {
  const [a, b] = [join(directory, 'a'), join(directory, 'b')]

  await writeNewc(a, entries)
  await writeNewc(b, entries.toReversed())

  expect(await readFile(a)).toEqual(await readFile(b))
})

test('a file is taken from where it lies', async () => {
  const source = join(directory, 'source')
  await writeFile(source, 'from disk')

  await writeNewc(join(directory, 'a'), [{ type: 'file', path: 'f', mode: 0o600, source }])

  expect((await readFile(join(directory, 'a'))).toString('latin1').replaceAll('\0', '.')).toContain(
    'from disk...070701',
  )
})

test('parents come before their children, each once', () => {
  const paths = withParents([
    { type: 'directory', path: 'a/b/c', mode: 0o700 },
    { type: 'directory', path: 'a', mode: 0o711 },
  ]).map(({ path, mode }) => `${path} ${mode.toString(8)}`)

  expect(paths).toEqual(['a 711', 'a/b 755', 'a/b/c 700'])
})

test('an absolute path is refused', () => {
  expect(() => withParents([{ type: 'directory', path: '/etc', mode: 0o755 }])).toThrow('archive path /etc')
})
