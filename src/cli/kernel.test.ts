import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { resolveKernel } from '../image/resolve.ts'
import { kernel } from './kernel.ts'

let place: string
let said: string

beforeEach(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-cli-kernel-'))
  said = ''
  vi.spyOn(console, 'log').mockImplementation((line: string) => {
    said += `${line}\n`
  })
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    said += text
    return true
  })
})

afterEach(async () => {
  vi.restoreAllMocks()
  await rm(place, { recursive: true })
})

async function configWithout(line: string): Promise<string> {
  const text = await readFile((await resolveKernel('debian:6.1-cloud')).config!, 'utf8')
  if (!text.includes(`\n${line}\n`)) throw new Error(`no ${line}`)
  const path = join(place, 'config')
  await writeFile(path, text.replace(`\n${line}\n`, '\n'))
  return path
}

test('a kernel that lacks nothing: exit status 0', async () => {
  expect(await kernel(['config', 'debian:6.1-cloud'])).toBe(0)
  expect(said).toMatch(/^configuration: .*config-6\.1\.\S+\nnothing is missing\n$/)
})

test('something needed is missing: exit status 1', async () => {
  const path = await configWithout('CONFIG_VIRTIO_PCI=m')

  expect(await kernel(['config', path])).toBe(1)
  expect(said).toBe(`configuration: ${path}
modules: not looked at, there is only a configuration
needed:
  CONFIG_VIRTIO_PCI is not set, should be m or y (virtio: virtio devices are on PCI)
`)
})

test('something useful is missing: exit status 0', async () => {
  expect(await kernel(['config', await configWithout('CONFIG_PVH=y')])).toBe(0)
  expect(said).toMatch(/useful:\n {2}CONFIG_PVH is not set.*\nnothing that is needed is missing\n$/)
})

test('a fragment for several purposes names each symbol once', async () => {
  const path = await configWithout('CONFIG_VIRTIO_PCI=m')

  expect(await kernel(['config', '--for', 'virtio', '--for', 'kvm', '--fragment', path])).toBe(1)
  expect(said).toBe(`# What ${path} lacks, for scripts/kconfig/merge_config.sh
# virtio, needed: virtio devices are on PCI
CONFIG_VIRTIO_PCI=m
`)
})

test('the builds that are served are listed, each by a name that stays its own', async () => {
  await resolveKernel('debian:6.12-cloud')
  expect(await kernel(['ls', '--json', '6.12'])).toBe(0)
  const builds = JSON.parse(said) as { name: string; line: string; isOldest: boolean; isNewest: boolean }[]
  said = ''
  expect(await kernel(['ls', '6.12'])).toBe(0)
  const lines = said.trimEnd().split('\n')

  expect(lines.map((line) => line.split(' ')[0])).toEqual(builds.map(({ name }) => name))
  expect(new Set(builds.map(({ line }) => line))).toEqual(new Set(['6.12']))
  expect(lines[0]).toContain('oldest of 6.12')
  expect(lines.at(-1)).toMatch(/newest of 6\.12, in the cache$/)
  await expect(kernel(['ls', 'all'])).rejects.toThrow('kvitest kernel ls: all is no line of kernels')
  await expect(kernel(['ls', '2.4'])).rejects.toThrow('debian:2.4-cloud: no such kernel')
})

test('wrong arguments are named', async () => {
  await expect(kernel(['config'])).rejects.toThrow('kvitest kernel config: 0 kernels; give one')
  await expect(kernel(['config', '--for', 'work', 'x'])).rejects.toThrow(
    '--for work; give virtio, kvm, debug',
  )
  expect(await kernel(['build'])).toBe(2)
})
