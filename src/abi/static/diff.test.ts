import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, test, vi } from 'vitest'
import { dependenciesOf } from '../../image/debian.ts'
import { fetchFiles } from '../../image/debian-files.ts'
import { compileHeaders, kvmHeaders } from '../headers/compile.ts'
import { openTree } from '../headers/tree.ts'
import { makeTree } from '../testing/header-tree.ts'
import { type CompiledTree, runAbidiff } from './abidiff.ts'
import { compareHeaders } from './diff.ts'
import { judge, readSuppressions } from './suppressions.ts'
import { changeLine, countByClass, renderChanges } from './text.ts'

const places: string[] = []

// The first use of a kernel's headers fetches them.
vi.setConfig({ testTimeout: 600_000 })

afterEach(async () => {
  vi.unstubAllEnvs()
  for (const place of places.splice(0)) await rm(place, { recursive: true, force: true })
})

async function compiled(text: string): Promise<CompiledTree> {
  const root = await makeTree(text)
  places.push(root)
  const tree = await openTree(root)
  return { tree, facts: await compileHeaders(tree) }
}

/** Lines `class: change` from one header to another. */
async function changes(before: string, after: string): Promise<string[]> {
  const [old, young] = [await compiled(before), await compiled(after)]
  return compareHeaders(old.facts, young.facts).map((change) => `${change.class}: ${changeLine(change)}`)
}

test('the same headers have no changes', async () => {
  const text = 'struct kvm_a { __u32 x; };\n#define KVM_A 1\n'

  expect(await changes(text, text)).toEqual([])
})

test('what moves, shrinks, goes or means something else is breaking', async () => {
  expect(
    await changes(
      `struct kvm_a { __u32 x; __u32 y; __u64 gone; };
       struct kvm_b { __u8 data[8]; };
       #define KVM_SET_B _IOW(0xAE, 1, struct kvm_b)
       #define KVM_FLAG 1
       #define KVM_GONE 2\n`,
      `struct kvm_a { __u64 x; __u32 y; __u32 pad; };
       struct kvm_b { __u8 data[12]; };
       #define KVM_SET_B _IOW(0xAE, 1, struct kvm_b)
       #define KVM_FLAG 4\n`,
    ),
  ).toEqual([
    'breaking: field kvm_a.x: u32 at 0, 4 bytes -> u64 at 0, 8 bytes (it has another size)',
    'breaking: field kvm_a.y: u32 at 4, 4 bytes -> u32 at 8, 4 bytes (it is somewhere else)',
    'breaking: field kvm_a.gone: u64 at 8, 8 bytes -> absent (what names it does not build)',
    'breaking: struct kvm_b: 8 bytes -> 12 bytes (the kernel copies another number of bytes, and the ioctl that takes it has another number)',
    'breaking: field kvm_b.data: u8[8] at 0, 8 bytes -> u8[12] at 0, 12 bytes (it has another size)',
    'breaking: constant KVM_SET_B: 0x4008ae01 -> 0x400cae01 (the old number means something else or nothing)',
    'breaking: constant KVM_FLAG: 0x1 -> 0x4 (the old number means something else or nothing)',
    'breaking: constant KVM_GONE: 0x2 -> absent (what names it does not build)',
  ])
})

test('what takes reserved bytes or is new is additive', async () => {
  expect(
    await changes(
      'struct kvm_a { __u32 x; __u32 pad[3]; };\nstruct kvm_part { __u32 x; };\n',
      `struct kvm_a { __u32 x; __u32 flags; __u32 pad[2]; };
       struct kvm_part { __u32 x; __u32 more; };
       struct kvm_new { __u32 x; };
       enum { KVM_NEW = 3 };\n`,
    ),
  ).toEqual([
    'additive: field kvm_a.flags: absent -> u32 at 4, 4 bytes (new)',
    'additive: struct kvm_part: 4 bytes -> 8 bytes (it is longer, and no ioctl takes it by itself)',
    'additive: field kvm_part.more: absent -> u32 at 4, 4 bytes (new)',
    'additive: struct kvm_new: absent -> 4 bytes (new)',
    'additive: constant KVM_NEW: absent -> 0x3 (new)',
    'info: field kvm_a.pad: u32[3] at 4, 12 bytes -> u32[2] at 8, 8 bytes (reserved bytes)',
  ])
})

test('a name that moves from a macro to an enumerator, and a sign, change nothing that a program sees', async () => {
  expect(
    await changes(
      'struct kvm_a { __u32 x; };\n#define KVM_A 1\n',
      'struct kvm_a { __s32 x; };\nenum kvm_e { KVM_A = 1 };\n',
    ),
  ).toEqual(['info: field kvm_a.x: u32 at 0, 4 bytes -> s32 at 0, 4 bytes (another type of the same size)'])
})

test('a suppression covers what it names, in its class only, and is counted with its reason', async () => {
  const [old, young] = [
    await compiled('struct kvm_a { __u32 x; };\n#define KVM_OLD_A 1\n#define KVM_B 1\n'),
    await compiled('struct kvm_a { __u32 y; };\n#define KVM_B 2\n#define KVM_OLD_C 3\n'),
  ]

  const judged = judge(compareHeaders(old.facts, young.facts), [
    { names: ['KVM_OLD_*'], class: 'breaking', reason: 'nobody has it' },
    { names: ['kvm_a'], reason: 'renamed' },
  ])

  expect(countByClass(judged)).toEqual({ breaking: 1, additive: 1, info: 0 })
  expect(renderChanges(judged)).toEqual([
    'breaking:',
    '  constant KVM_B: 0x1 -> 0x2 (the old number means something else or nothing)',
    'additive:',
    '  constant KVM_OLD_C: absent -> 0x3 (new)',
    'suppressed:',
    '  2: renamed',
    '  1: nobody has it',
    '1 breaking, 1 additive, 0 info, 3 suppressed',
  ])
})

test.for([
  ['- names: [KVM_A]\n', 'entry 1: no reason'],
  ['- reason: because\n', 'entry 1: no names'],
  ['- names: [A]\n  reason: x\n- names: [B]\n  reason: y\n  until: 2030\n', 'entry 2: until: not known'],
  ['- names: [A]\n  reason: x\n  class: bad\n', 'entry 1: class bad'],
  ['names: [A]\n', 'no entry'],
] as const)('a suppression that is not well formed is refused: %j', async ([text, detail]) => {
  const place = await mkdtemp(join(tmpdir(), 'kvitest-suppress-'))
  places.push(place)
  await writeFile(join(place, 's.yaml'), text)

  await expect(readSuppressions(join(place, 's.yaml'))).rejects.toThrow(
    `read the suppressions: ${join(place, 's.yaml')}: ${detail}; an entry has names`,
  )
})

test('between 6.1 and 6.12, what is left after the known suppressions', async () => {
  const [old, young] = [
    await compileHeaders(await openTree('debian:6.1')),
    await compileHeaders(await openTree('debian:6.12')),
  ]

  const judged = judge(compareHeaders(old, young), await readSuppressions())

  const breaking = judged.filter((one) => one.class === 'breaking' && one.suppressed === undefined)
  expect(breaking.map((one) => one.name)).toEqual([
    'kvm_vcpu_pv_apf_data',
    'kvm_vcpu_pv_apf_data.enabled',
    '__KVM_HAVE_READONLY_MEM',
  ])
  const added = judged.filter((one) => one.class === 'additive').map((one) => one.name)
  expect(added).toEqual(expect.arrayContaining(['KVM_SET_USER_MEMORY_REGION2', 'kvm_run.memory_fault.gpa']))
})

test('abidiff sees the same change of a structure', async () => {
  const libraries = (await dependenciesOf('libabigail0')).filter((one) => !/^lib(c6|stdc|gcc)/.test(one))
  const names = ['abigail-tools', 'libabigail0', ...libraries]
  const root = await fetchFiles('abigail-tools', {
    packages: names.map((name) => ({ package: name })),
    members: ['./usr/bin/abidiff', './usr/lib/x86_64-linux-gnu'],
  })
  vi.stubEnv('PATH', `${join(root, 'usr/bin')}:${process.env.PATH}`)
  vi.stubEnv('LD_LIBRARY_PATH', join(root, 'usr/lib/x86_64-linux-gnu'))
  const [before, after] = [
    await compiled('struct kvm_a { __u32 x; __u32 y; };\nunion kvm_u { __u32 x; };\n'),
    await compiled('struct kvm_a { __u32 x; __u64 y; };\nunion kvm_u { __u32 x; };\n'),
  ]

  expect(await runAbidiff(before, before, kvmHeaders)).toBe('')
  expect(await runAbidiff(before, after, kvmHeaders)).toMatch(
    /struct kvm_a'[\s\S]*type size changed from 64 to 128 \(in bits\)/,
  )
})

test('without abidiff there is no report', async () => {
  const tree = await compiled('')
  vi.stubEnv('PATH', '/nowhere')

  expect(await runAbidiff(tree, tree, kvmHeaders)).toBeUndefined()
})
