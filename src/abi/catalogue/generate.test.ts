import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, test, vi } from 'vitest'
import { treeOf } from '../headers/tree.ts'
import { catalogueData, catalogueVersions } from './catalogue.ts'
import {
  catalogued,
  compareData,
  fetchSources,
  generate,
  renderData,
  type Sources,
  unexpected,
  writeData,
} from './generate.ts'

const places: string[] = []

// The first use fetches 100 MB; how long that takes is the network's and the machine's to say.
vi.setConfig({ testTimeout: 900_000 })

afterEach(async () => {
  for (const place of places.splice(0)) await rm(place, { recursive: true, force: true })
})

async function place(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'kvitest-catalogue-'))
  places.push(path)
  return path
}

/** The sources of 6.12 with linux/kvm.h and api.rst changed. */
async function changed(edit: {
  header?: (text: string) => string
  api?: (text: string) => string
}): Promise<Sources> {
  const sources = await fetchSources('6.12')
  const root = await place()
  await cp(sources.tree.root, root, { recursive: true })
  const file = join(root, 'include/uapi/linux/kvm.h')
  const text = await readFile(file, 'utf8')
  const edited = edit.header?.(text) ?? text
  const api = edit.api?.(sources.api) ?? sources.api
  if (edited === text && api === sources.api) throw new Error('the edit changed nothing')
  await writeFile(file, edited)
  return { ...sources, api, tree: await treeOf('edited', root) }
}

test('there is data for every version', () => {
  expect(catalogued.map((one) => one.version)).toEqual([...catalogueVersions])
})

// 7.3 is in generate.long.test.ts: its suite is not one of a Debian 12 machine.
test.for(['6.1', '6.12'] as const)('the committed data of %s is what its sources say', async (version) => {
  const { data, problems } = await generate(await fetchSources(version))

  expect(problems).toEqual([])
  // When Debian has changed it: look at the lines, then kvitest abi catalogue --update.
  expect(compareData(catalogueData(version), data)).toEqual([])
})

test('the committed text is what the generator writes, one entry a line', async () => {
  for (const version of catalogueVersions) {
    const text = await readFile(new URL(`data/${version}.json`, import.meta.url), 'utf8')
    expect(renderData(catalogueData(version))).toBe(text)
  }
})

test('sources that disagree are said in one line each', async () => {
  const sources = await changed({
    api: (text) =>
      text
        .replace('4.11 KVM_GET_REGS', '4.11 KVM_GET_REGISTERS')
        .replace(':Parameters: struct kvm_sregs (out)', ':Parameters: struct kvm_srags (out)')
        .replace(':Capability: KVM_CAP_XCRS', ':Capability: KVM_CAP_XCR')
        .replace('/* KVM_EXIT_MMIO */', '/* KVM_EXIT_MEMORY_IO */')
        .replace('named KVM_CAP_BINARY_STATS_FD', '')
        .replace(':Capability: KVM_CAP_STATS_BINARY_FD', ':Capability: KVM_CAP_BINARY_STATS_FD'),
  })

  const { problems } = await generate(sources)

  expect(problems).toEqual([
    '6.12: KVM_GET_REGISTERS: api.rst 4.11 documents it, the header does not have it',
    '6.12: KVM_GET_REGS: no source says on which kind of file descriptor it works',
    '6.12: KVM_GET_SREGS: api.rst 4.13 takes struct kvm_srags, the header struct kvm_sregs',
    '6.12: KVM_GET_XCRS: api.rst 4.44 asks for KVM_CAP_XCR, the header does not have it',
    '6.12: KVM_EXIT_MEMORY_IO: api.rst 5 names it, the header does not have it',
    '6.12: known disagreement is gone: KVM_GET_STATS_FD: api.rst 4.133 asks for KVM_CAP_STATS_BINARY_FD, the header does not have it',
  ])
})

test('a header that changed shows as the entries that changed', async () => {
  const sources = await changed({
    header: (text) =>
      text
        .replace('#define KVM_EXIT_HLT              5', '#define KVM_EXIT_HLT              55')
        .replace('struct kvm_irq_level {', 'struct kvm_irq_level {\n\t__u64 more;')
        .replace('#define KVM_CAP_HLT	  1', '#define KVM_CAP_HLT	  0'),
  })

  const { data, problems } = await generate(sources)

  expect(problems).toEqual(['6.12: KVM_CAP_HLT: has the value 0 of KVM_CAP_IRQCHIP'])
  expect(
    compareData(catalogueData('6.12'), data).map((line) => line.replace(/"errnos".*?"doc"/g, '"doc"')),
  ).toEqual([
    expect.stringMatching(
      /^6\.12: ioctls\.KVM_IRQ_LINE: .*"request":"0x4008ae61".* -> .*"request":"0x4010ae61"/,
    ),
    expect.stringMatching(/^6\.12: ioctls\.KVM_IRQ_LINE_STATUS: .*"0xc008ae67".* -> .*"0xc010ae67"/),
    '6.12: capabilities.KVM_CAP_HLT: {"value":1} -> {"value":0}',
    '6.12: exitReasons.KVM_EXIT_HLT: {"value":5,"documented":false} -> {"value":55,"documented":false}',
    expect.stringMatching(/^6\.12: structs\.kvm_irq_level: \{"size":8,.* -> \{"size":16,/),
  ])
})

test('a header that does not compile is one line, and so is an api.rst of another layout', async () => {
  const broken = await changed({ header: (text) => text.replace('struct kvm_run {', 'struct kvm_run {{') })
  const other = await changed({ api: (text) => text.replaceAll(/^:Type:/gm, 'Type ::') })

  await expect(generate(broken)).rejects.toThrow(
    /^compile the UAPI headers: edited for x86: include\/uapi\/linux\/kvm\.h:\d+:\d+: error: [^\n]*$/,
  )
  await expect(generate(other)).rejects.toThrow(
    /^read api\.rst: api\.rst of 6\.12: \d+ sections on ioctls with the field type where at least \d+ were expected; [^\n]*nothing was written$/,
  )
})

test('all versions are written or none', async () => {
  const folder = await place()
  const endless: Record<string, unknown> = {}
  endless.self = endless

  await expect(
    writeData(
      [catalogueData('6.1'), { ...catalogueData('6.12'), constants: endless as Record<string, number> }],
      folder,
    ),
  ).rejects.toThrow('circular')
  expect(await readdir(folder)).toEqual([])

  await writeData([catalogueData('6.1'), catalogueData('6.12')], folder)
  expect(await readdir(folder)).toEqual(['6.1.json', '6.12.json'])
})

test('a version that is not catalogued is named', async () => {
  await expect(fetchSources('5.10')).rejects.toThrow(
    'make the catalogue: 5.10: not a version of the catalogue; known: 6.1, 6.12, 7.3',
  )
})

test('a known disagreement counts for its versions only', () => {
  const known = [{ line: 'KVM_A: wrong', versions: ['6.1'], reason: 'old' }]

  expect(unexpected('6.1', ['KVM_A: wrong'], known)).toEqual([])
  expect(unexpected('6.12', ['KVM_A: wrong'], known)).toEqual(['6.12: KVM_A: wrong'])
  expect(unexpected('6.1', [], known)).toEqual(['6.1: known disagreement is gone: KVM_A: wrong'])
})
