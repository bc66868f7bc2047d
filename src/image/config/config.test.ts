import { appendFile, copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { resolveKernel } from '../resolve.ts'
import { extractVmlinux } from '../vmlinux.ts'
import { checkConfig, renderFragment } from './check.ts'
import { type KernelConfig, parseConfig } from './dot-config.ts'
import { readKernelConfig } from './read.ts'
import { purposes } from './requirements.ts'

// The first use of a kernel fetches it.
vi.setConfig({ testTimeout: 600_000 })

let place: string

beforeEach(async () => {
  place = await mkdtemp(join(tmpdir(), 'kvitest-config-'))
})

afterEach(async () => {
  await rm(place, { recursive: true })
})

async function cloudText(line = '6.12'): Promise<string> {
  const kernel = await resolveKernel(`debian:${line}-cloud`)
  return readFile(kernel.config!, 'utf8')
}

/** Debian's 6.12 with lines changed; each edit must change something. */
async function edited(...edits: [RegExp, string][]): Promise<KernelConfig> {
  let text = await cloudText()
  for (const [pattern, replacement] of edits) {
    const next = text.replace(pattern, replacement)
    if (next === text) throw new Error(`${pattern} changed nothing`)
    text = next
  }
  return parseConfig(text, 'edited')
}

/** `level: CONFIG_X is .. -> ..` */
function lines(lacks: ReturnType<typeof checkConfig>): string[] {
  return lacks.map(({ level, what, is, want }) => `${level}: ${what} ${is} -> ${want}`)
}

test.for(['debian:6.1-cloud', 'debian:6.12-cloud', 'debian:6.1-generic', 'debian:6.12-generic'])(
  '%s can be a guest and a lab; nothing that debugging needs is missing',
  async (name) => {
    const { config, modules } = await readKernelConfig(name)

    for (const purpose of ['virtio', 'kvm'] as const)
      expect(checkConfig(config, purpose, modules)).toEqual([])
    const debug = checkConfig(config, 'debug', modules)
    expect(debug.filter((lack) => lack.level === 'needed')).toEqual([])
    expect(debug.map((lack) => lack.what)).toEqual(
      expect.arrayContaining(['CONFIG_PROVE_LOCKING', 'CONFIG_UBSAN', 'CONFIG_FAULT_INJECTION']),
    )
    expect(modules === undefined).toBe(name.endsWith('-generic'))
  },
)

test('what is not set, built as a module where it must not be, or set where it must not be', async () => {
  const config = await edited(
    [/^CONFIG_VIRTIO_PCI=y$/m, '# CONFIG_VIRTIO_PCI is not set'],
    [/^CONFIG_SERIAL_8250_CONSOLE=y\n/m, ''],
    [/^CONFIG_TMPFS=y$/m, 'CONFIG_TMPFS=m'],
    [/^# CONFIG_CMDLINE_BOOL is not set$/m, 'CONFIG_CMDLINE_BOOL=y\nCONFIG_CMDLINE_OVERRIDE=y'],
    [/^CONFIG_PVH=y$/m, 'CONFIG_PVH=n'],
  )

  expect(lines(checkConfig(config, 'virtio'))).toEqual([
    'needed: CONFIG_TMPFS m -> y',
    'needed: CONFIG_SERIAL_8250_CONSOLE not set -> y',
    'needed: CONFIG_VIRTIO_PCI not set -> m or y',
    'needed: CONFIG_CMDLINE_OVERRIDE y -> not set',
    'useful: CONFIG_PVH not set -> y',
  ])
})

test('of several symbols one is enough', async () => {
  const amd = await edited([/^CONFIG_KVM_INTEL=m$/m, ''])
  const intel = await edited([/^CONFIG_KVM_AMD=m$/m, ''])
  const none = await edited([/^CONFIG_KVM_AMD=m$/m, ''], [/^CONFIG_KVM_INTEL=m$/m, ''])

  expect(lines(checkConfig(amd, 'kvm'))).toEqual(['useful: CONFIG_KVM_INTEL not set -> m or y'])
  expect(lines(checkConfig(intel, 'kvm'))).toEqual([])
  expect(lines(checkConfig(none, 'kvm'))[0]).toBe(
    'needed: CONFIG_KVM_AMD or CONFIG_KVM_INTEL not set -> m or y',
  )
})

test('a module that the configuration promises has to be there', async () => {
  const kernel = await resolveKernel('debian:6.1-cloud')
  const own = join(place, 'vmlinuz')
  await copyFile(kernel.image, own)
  await copyFile(kernel.config!, join(place, `config-${kernel.release}`))
  const modules = join(place, 'lib/modules', kernel.release)
  await mkdir(modules, { recursive: true })
  const order = await readFile(join(kernel.modules!, 'modules.order'), 'utf8')
  await writeFile(join(modules, 'modules.order'), order.replace(/^.*\/virtio_console\.ko$\n/m, ''))
  await writeFile(join(modules, 'modules.builtin'), '')

  const found = await readKernelConfig(own)

  expect(lines(checkConfig(found.config, 'virtio', found.modules))).toEqual([
    'needed: module virtio_console absent, though CONFIG_VIRTIO_CONSOLE=m -> beside the kernel',
  ])
})

test('merged with its fragment, a configuration lacks nothing but modules', async () => {
  const text = await cloudText()
  const poor = text.replace(/^CONFIG_(VIRTIO_PCI|KVM|KVM_AMD|KVM_INTEL|PVH|BUG|DEVTMPFS)=.*\n/gm, '')
  const config = parseConfig(poor, 'poor')
  const lacks = purposes.flatMap((purpose) => checkConfig(config, purpose))

  const fragment = renderFragment('poor', lacks)

  expect(fragment).toContain('CONFIG_KVM=m\n')
  expect(fragment.match(/^CONFIG_DEVTMPFS=y$/gm)).toHaveLength(1)
  const merged = parseConfig(`${poor}\n${fragment}`, 'merged')
  expect(purposes.flatMap((purpose) => checkConfig(merged, purpose))).toEqual([])
})

test('without loadable modules a driver is built in', async () => {
  const config = await edited([/^CONFIG_MODULES=y$/m, ''], [/^CONFIG_KVM=m$/m, ''])

  const [lack] = checkConfig(config, 'kvm')

  expect(lack).toMatchObject({ what: 'CONFIG_KVM', want: 'y', line: 'CONFIG_KVM=y' })
})

test('a fragment of nothing says so', () => {
  expect(renderFragment('debian:6.12-cloud', [])).toBe('# debian:6.12-cloud lacks nothing\n')
})

test('a .config may be plain or gzipped, with line ends of Windows', async () => {
  const text = await cloudText('6.1')
  await writeFile(join(place, 'dot-config'), text.replaceAll('\n', '\r\n'))
  await writeFile(join(place, 'config.gz'), gzipSync(text))
  const expected = [...parseConfig(text, 'x').values]

  for (const name of ['dot-config', 'config.gz']) {
    const { config, modules } = await readKernelConfig(join(place, name))
    expect([...config.values]).toEqual(expected)
    expect(modules).toBeUndefined()
  }
})

test('a kernel that carries its configuration needs none beside it', async () => {
  const kernel = await resolveKernel('debian:6.1-cloud')
  const image = join(place, 'vmlinux')
  await copyFile(await extractVmlinux(kernel.image), image)
  await expect(readKernelConfig(image)).rejects.toThrow(
    /^find the kernel configuration: .*vmlinux: none beside the image \(1 files there\) and none inside; put config-6\.1\./,
  )

  await appendFile(
    image,
    Buffer.concat([Buffer.from('IKCFG_ST'), gzipSync(await cloudText('6.1')), Buffer.from('IKCFG_ED')]),
  )

  const { config } = await readKernelConfig(image)
  expect(config.origin).toBe(`${image} (IKCONFIG)`)
  expect(config.values.get('VIRTIO_PCI')).toBe('m')
})

test.for([
  [
    'cut short',
    (text: string) => text.slice(0, text.indexOf('CONFIG_VIRTIO_PCI=y') + 16),
    /: line \d+ is no line of a \.config: "CONFIG_VIRTIO_P/,
  ],
  [
    'with a value that is none',
    (text: string) => text.replace('CONFIG_VIRTIO=y', 'CONFIG_VIRTIO=yes'),
    /line \d+ is no line of a \.config: "CONFIG_VIRTIO=yes"/,
  ],
  [
    'after a merge that went wrong',
    (text: string) => text.replace('CONFIG_VIRTIO=y', '<<<<<<< ours\nCONFIG_VIRTIO=y'),
    /line \d+ .*"<<<<<<< ours"/,
  ],
  ['a fragment', () => 'CONFIG_VIRTIO=y\n', /: 1 symbols, where a kernel's has thousands/],
  ['empty', () => '', /: 0 symbols/],
  [
    'of another architecture',
    (text: string) => text.replace('CONFIG_X86_64=y', 'CONFIG_ARM64=y'),
    /not of an x86-64 kernel/,
  ],
] as const)('a configuration that is %s is refused in one line', async ([, edit, message]) => {
  const path = join(place, 'config')
  await writeFile(path, edit(await cloudText()))

  const error = (await readKernelConfig(path).catch((reason: unknown) => reason)) as Error

  expect(error.message).toMatch(message)
  expect(error.message).toMatch(
    /^read the kernel configuration: .*; give a whole \.config, as the build made it$/,
  )
})

test.for([
  ['debian:5.99-generic', 'find the kernel configuration: debian:5.99-generic: no such kernel'],
  ['/nowhere/config', 'find the kernel: /nowhere/config: no such file or directory'],
  ['/bin/ls', 'an ELF file, but no Linux kernel'],
] as const)('%s is refused', async ([name, message]) => {
  await expect(readKernelConfig(name)).rejects.toThrow(message)
})
