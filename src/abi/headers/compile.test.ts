import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, test, vi } from 'vitest'
import { runCommand } from '../../image/command.ts'
import { makeTree } from '../testing/header-tree.ts'
import { compileHeaders, type HeaderFacts } from './compile.ts'
import { openTree } from './tree.ts'

const places: string[] = []

// The first use of a kernel's headers fetches them.
vi.setConfig({ testTimeout: 600_000 })

afterEach(async () => {
  for (const place of places.splice(0)) await rm(place, { recursive: true, force: true })
})

async function compile(text: string): Promise<HeaderFacts> {
  const root = await makeTree(text)
  places.push(root)
  return compileHeaders(await openTree(root))
}

test('layouts are what the compiler lays out', async () => {
  const { structs, unions } = await compile(`
struct kvm_inner { __u8 a; __u64 b; };
struct kvm_outer {
  __u32 flags;
  struct { __u8 direction; __u16 port; } io;
  union { __u64 gpa; struct kvm_inner inner; };
  __u32 low : 3, high : 5;
  void *pointer;
  __s32 table[2][3];
  __u64 entries[];
};
struct kvm_tight { __u8 a; __u32 b; } __attribute__((packed));
union kvm_both { __u8 small; __u64 large; };`)

  expect(structs.get('kvm_inner')).toEqual({ size: 16, fields: { a: [0, 1, 'u8'], b: [8, 8, 'u64'] } })
  expect(structs.get('kvm_outer')).toEqual({
    size: 64,
    fields: {
      flags: [0, 4, 'u32'],
      io: [4, 4, 'struct'],
      'io.direction': [4, 1, 'u8'],
      'io.port': [6, 2, 'u16'],
      gpa: [8, 8, 'u64'],
      inner: [8, 16, 'kvm_inner'],
      low: [24, 4, 'u32', 192, 3],
      high: [24, 4, 'u32', 195, 5],
      pointer: [32, 8, 'ptr'],
      table: [40, 24, 's32[6]'],
      entries: [64, 0, 'u64[]'],
    },
  })
  expect(structs.get('kvm_tight')?.fields.b).toEqual([1, 4, 'u32'])
  expect([...unions]).toEqual(['kvm_both'])
})

test('macros have the value that the compiler gives them, and none where it gives none', async () => {
  const { macros, enumerators } = await compile(`
#define KVMIO 0xAE
struct kvm_regs { __u64 rax[18]; };
enum kvm_kind { KVM_FIRST = 7, KVM_SECOND };
#define KVM_SET_REGS _IOW(KVMIO, 0x82, struct kvm_regs)
#define KVM_OTHERS _IOW(KVMIO, 0x83, struct kvm_of_another_architecture)
#define KVM_MASK (~0ULL << 4)
#define KVM_SIGNATURE "KVMKVMKVM"
#define KVM_TYPE(x) ((x) << 8)
#define KVM_ALIAS KVM_SECOND
#define __KVM_HAVE_PIT`)

  expect(Object.fromEntries([...macros].map(([name, { value }]) => [name, value]))).toEqual({
    KVMIO: 0xaen,
    KVM_SET_REGS: 0x4090ae82n,
    KVM_OTHERS: undefined,
    KVM_MASK: 0xfffffffffffffff0n,
    KVM_SIGNATURE: undefined,
    KVM_ALIAS: 8n,
    __KVM_HAVE_PIT: undefined,
  })
  expect([...enumerators]).toEqual([
    ['KVM_FIRST', 7n],
    ['KVM_SECOND', 8n],
  ])
})

test('types and macros of other headers are not its own', async () => {
  const root = await makeTree('#include <linux/more.h>\nstruct kvm_a { struct more m; };\n', {
    'linux/more.h': 'struct more { int a; };\nenum { MORE_KINDS };\n#define MORE 1\n',
  })
  places.push(root)

  const { structs, macros, enumerators } = await compileHeaders(await openTree(root))

  expect([...structs.keys(), ...macros.keys(), ...enumerators.keys()]).toEqual(['kvm_a'])
})

test('a tree that does not compile is named with the first error', async () => {
  await expect(compile('struct kvm_regs { __u64 rax; }\nstruct kvm_sregs { nothing x; };\n')).rejects.toThrow(
    /^compile the UAPI headers: \/.*kvitest-headers-\w+ for x86: linux\/kvm\.h:5:\d+: error: .*; give a complete header tree of one kernel$/,
  )
})

test('an architecture that the tree lacks is named', async () => {
  const root = await makeTree('')
  places.push(root)

  await expect(compileHeaders(await openTree(root), 'arm64')).rejects.toThrow(
    /has no asm\/kvm\.h for arm64; give a complete/,
  )
})

test.for([
  ['/nowhere', 'find the UAPI headers: /nowhere: no such file or directory; give debian:6.12'],
  ['/etc', 'find the UAPI headers: /etc: has no linux/kvm.h; give debian:6.12'],
  ['/etc/passwd', 'read the package: /etc/passwd: '],
  ['debian:six', 'find the UAPI headers: debian:six: not a name; write debian:6.12'],
  ['debian:5.99', 'find the UAPI headers: debian:5.99: Debian serves no headers of it; known: '],
] as const)('%s is refused in one line', async ([name, message]) => {
  const error = (await openTree(name).catch((reason: unknown) => reason)) as Error

  expect(error.message.slice(0, message.length)).toBe(message)
  expect(error.message).not.toContain('\n')
})

test("this machine's own headers and Debian's of the same line agree", async () => {
  const installed = await compileHeaders(await openTree('/usr/include'))
  const line = await readFile('/usr/include/linux/version.h', 'utf8')
  const [major, minor] = ['MAJOR', 'PATCHLEVEL'].map(
    (part) => new RegExp(`VERSION_${part} (\\d+)`).exec(line)![1],
  )
  const source = await compileHeaders(await openTree(`debian:${major}.${minor}`))

  expect([...installed.structs]).toEqual([...source.structs])
  expect([...installed.enumerators]).toEqual([...source.enumerators])
})

test('a .deb and the folder that it holds are one tree', async () => {
  const place = await mkdtemp(join(tmpdir(), 'kvitest-deb-'))
  places.push(place)
  const root = await makeTree('struct kvm_regs { __u64 rax; };\n#define KVM_A 1\n')
  places.push(root)
  await mkdir(join(place, 'deb/DEBIAN'), { recursive: true })
  await writeFile(
    join(place, 'deb/DEBIAN/control'),
    'Package: headers\nVersion: 1\nArchitecture: all\nMaintainer: n <n@n>\nDescription: n\n',
  )
  await cp(root, join(place, 'deb/usr/include'), { recursive: true })
  await runCommand(['mv', join(place, 'deb/usr/include/asm'), join(place, 'asm')])
  await mkdir(join(place, 'deb/usr/include/x86_64-linux-gnu'))
  await runCommand(['mv', join(place, 'asm'), join(place, 'deb/usr/include/x86_64-linux-gnu/asm')])
  const built = await runCommand(['dpkg-deb', '-b', join(place, 'deb'), join(place, 'h.deb')])
  expect(built.status).toBe(0)

  const facts = await compileHeaders(await openTree(join(place, 'h.deb')))

  expect([...facts.structs.keys()]).toEqual(['kvm_regs'])
  expect(facts.macros.get('KVM_A')).toEqual({ body: '1', value: 1n })
})
