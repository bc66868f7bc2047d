import { execFile } from 'node:child_process'
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { buildInitramfs, builtFile, modulesFor, staticBusybox } from './initramfs.ts'
import type { KernelInfo } from './kernel.ts'
import { resolveKernel } from './resolve.ts'

const run = promisify(execFile)
let place: string
let kernel: KernelInfo

beforeAll(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-initramfs-'))
  kernel = await resolveKernel('debian:6.1-cloud')
}, 120_000)

afterAll(() => rm(place, { recursive: true }))

async function unpack(archive: string): Promise<string> {
  const target = await mkdtemp(join(place, 'root-'))
  // Without root, device nodes cannot be made; everything else is unpacked.
  await run('sh', [
    '-c',
    `cd "$0" && exec ${await staticBusybox()} cpio -idm -d < "$1"`,
    target,
    archive,
  ]).catch(() => {})
  return target
}

test('the guest finds busybox, the agent, the TAP library and its modules in load order', async () => {
  const { path } = await buildInitramfs({ kernel, modules: modulesFor([{ type: 'virtio-rng' }]) })

  const root = await unpack(path)
  expect(await readFile(join(root, 'init'))).toEqual(await readFile(await builtFile('agent')))
  expect(await readFile(join(root, 'bin/sh'))).toEqual(await readFile(await staticBusybox()))
  expect(await readFile(join(root, 'lib/kvitest/tap.sh'), 'utf8')).toContain('done_testing')
  const list = (await readFile(join(root, 'etc/kvitest/modules'), 'utf8')).trim().split('\n')
  const names = list.map((line) => line.split('/').at(-1))
  expect(names.indexOf('virtio_ring.ko')).toBeLessThan(names.indexOf('virtio_pci.ko'))
  expect(names).toEqual(expect.arrayContaining(['virtio_console.ko', 'virtio-rng.ko', 'pvpanic-mmio.ko']))
  for (const line of list) expect((await readFile(join(root, line))).subarray(1, 4).toString()).toBe('ELF')
})

test('modprobe can resolve every module from modules.dep', async () => {
  const { path } = await buildInitramfs({ kernel, modules: ['virtio_console'] })

  const base = join(await unpack(path), 'lib/modules', kernel.release)
  const lines = (await readFile(join(base, 'modules.dep'), 'utf8')).trim().split('\n')
  const files = lines.flatMap((line) => line.split(/:? /)).filter((file) => file !== '')
  expect(lines.find((line) => line.includes('virtio_console.ko:'))).toMatch(/: kernel\/\S*virtio/)
  for (const file of files) await expect(readFile(join(base, file.replace(/:$/, '')))).resolves.toBeDefined()
})

test('extra files keep their permission bits and change the archive', async () => {
  const tool = join(place, 'tool')
  await writeFile(tool, 'one')
  await chmod(tool, 0o755)
  const options = { kernel, modules: [], files: { '/opt/tool': tool } }

  const first = await buildInitramfs(options)
  await writeFile(tool, 'two')
  const second = await buildInitramfs(options)

  const { stdout } = await run('stat', ['-c', '%a', join(await unpack(second.path), 'opt/tool')])
  expect(stdout.trim()).toBe('755')
  expect(second.hash).not.toBe(first.hash)
})

test('the same wish gives the same file', async () => {
  const [a, b] = await Promise.all([
    buildInitramfs({ kernel, modules: [] }),
    buildInitramfs({ kernel, modules: [] }),
  ])
  expect(a).toEqual(b)
})

test.for(['/../etc/passwd', '/', '/a//b', '/a/./b'])('the guest path %s is refused', async (path) => {
  await expect(buildInitramfs({ kernel, modules: [], files: { [path]: '/etc/hostname' } })).rejects.toThrow(
    `put a file into the guest: ${path}: not a plain absolute path`,
  )
})

test('a file that is not there is named', async () => {
  await expect(buildInitramfs({ kernel, modules: [], files: { '/x': '/nowhere/x' } })).rejects.toThrow(
    'put a file into the guest: /nowhere/x: no such file',
  )
})
