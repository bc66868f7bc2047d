/** What a compiler says about the UAPI headers of one kernel: every macro's value, every structure's layout. */
import { cp, mkdir, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { scratchDirectory } from '../../image/cache.ts'
import { type CommandResult, complaint, runCommand } from '../../image/command.ts'
import { KvitestError } from '../../native/error.ts'
import { type Layout, parseDebugInfo } from './dwarf.ts'
import type { Arch, HeaderTree } from './tree.ts'

export interface Macro {
  /** As written, on one line. */
  body: string
  /** Absent when the body is no constant, or names a structure that the architecture lacks. */
  value?: bigint
}

export interface HeaderFacts {
  arch: Arch
  /** Object-like macros of the named headers, in their order. */
  macros: Map<string, Macro>
  /** Enumerators of the named headers. */
  enumerators: Map<string, bigint>
  /** Structures and unions of the named headers. */
  structs: Map<string, Layout>
  /** Which of them are unions. */
  unions: Set<string>
}

export const kvmHeaders = ['linux/kvm.h', 'linux/kvm_para.h', 'asm/kvm.h', 'asm/kvm_para.h']

/** What `make headers_install` would take away or define (scripts/headers_install.sh of the kernel). */
const sanitised = ['-D__user=', '-D__force=', '-D__iomem=', '-D__packed=__attribute__((packed))']

interface Compiler {
  place: string
  argv: string[]
  tree: HeaderTree
}

function broken(tree: HeaderTree, arch: Arch, result: CommandResult): KvitestError {
  const first = result.stderr.split('\n').find((line) => /\b(fatal )?error:/.test(line))
  const detail = first?.replace(`${tree.root}/`, '').trim() ?? complaint(result)
  return new KvitestError('compile the UAPI headers', `${tree.name} for ${arch}: ${detail}`, {
    code: 'ENOEXEC',
    hint: 'give a complete header tree of one kernel',
    infra: false,
  })
}

/**
 * The kernel's build makes a header of an architecture that has none of its own from the generic one; a source tree
 * before its build lacks those, and what only the kernel itself includes.
 */
async function makeShims(tree: HeaderTree, place: string): Promise<string[]> {
  if (tree.kind !== 'source') return []
  const shims = join(place, 'shims')
  await mkdir(join(shims, 'asm'), { recursive: true })
  await mkdir(join(shims, 'linux'), { recursive: true })
  for (const name of ['compiler.h', 'compiler_types.h']) await writeFile(join(shims, 'linux', name), '')
  for (const name of await readdir(join(tree.root, 'include/uapi/asm-generic')).catch(() => [])) {
    await writeFile(join(shims, 'asm', name), `#include <asm-generic/${name}>\n`)
  }
  return [shims]
}

async function makeCompiler(tree: HeaderTree, arch: Arch, place: string): Promise<Compiler> {
  const folders = [...tree.include[arch], ...(await makeShims(tree, place))]
  // arm64's structures are laid out alike by any LP64 little-endian compiler: no cross compiler is needed for them.
  const foreign = arch === 'x86' ? [] : ['-U__x86_64__', '-U__i386__', '-D__aarch64__']
  const argv = [
    'gcc',
    '-x',
    'c',
    '-w',
    '-nostdinc',
    ...sanitised,
    ...foreign,
    ...folders.map((one) => `-I${one}`),
  ]
  return { place, argv, tree }
}

function includes(headers: readonly string[]): string {
  return headers.map((header) => `#include <${header}>\n`).join('')
}

interface Segment {
  macros: Map<string, string>
  text: string
}

/** What the preprocessor took from the named headers themselves: macros, and the declarations' text. */
function ownText(preprocessed: string, headers: readonly string[]): Segment {
  const macros = new Map<string, string>()
  const text: string[] = []
  let isOwn = false
  for (const line of preprocessed.split('\n')) {
    const marker = /^# \d+ "(.*)"/.exec(line)
    if (marker) {
      isOwn = headers.some((header) => marker[1]!.endsWith(`/${header}`))
      continue
    }
    if (!isOwn) continue
    const define = /^#define (\w+)(?!\()(?:\s+(.*))?$/.exec(line)
    const functionLike = /^#define \w+\(/.test(line)
    if (define && !functionLike) macros.set(define[1]!, (define[2] ?? '').trim())
    else if (!line.startsWith('#')) text.push(line)
  }
  return { macros, text: text.join('\n') }
}

function probe(headers: readonly string[], names: readonly string[]): { source: string; firstLine: number } {
  const rows = names.map(
    (name) => `static const unsigned long long v_${name} = (unsigned long long)(${name});`,
  )
  const prints = names.map((name) => `__builtin_printf("${name} %llx\\n", v_${name});`)
  const source = `${includes(headers)}${rows.join('\n')}\nint main(void) {\n${prints.join('\n')}\nreturn 0; }\n`
  return { source, firstLine: headers.length + 1 }
}

/** Values of macros; those whose body is no constant expression here are left out. */
async function evaluate(
  compiler: Compiler,
  arch: Arch,
  headers: readonly string[],
  macros: ReadonlyMap<string, string>,
): Promise<Map<string, bigint>> {
  let names = [...macros].filter(([, body]) => body !== '' && !body.includes('"')).map(([name]) => name)
  const source = join(compiler.place, 'values.c')
  const program = join(compiler.place, 'values')
  // Errors show in an expansion's own line; the first pass finds the macros that cannot be evaluated.
  const flags = ['-ftrack-macro-expansion=0', '-fmax-errors=0', '-o', program, source]
  for (let pass = 0; ; pass++) {
    const { source: text, firstLine } = probe(headers, names)
    await writeFile(source, text)
    const result = await runCommand([...compiler.argv, ...flags], { package: 'gcc' })
    if (result.status === 0) break
    const bad = new Set<string>()
    for (const [, line] of result.stderr.matchAll(/values\.c:(\d+):\d+: (?:fatal )?error:/g)) {
      const name = names[Number(line) - firstLine]
      if (name) bad.add(name)
    }
    if (bad.size === 0 || pass > 3) throw broken(compiler.tree, arch, result)
    names = names.filter((name) => !bad.has(name))
  }
  const result = await runCommand([program])
  const pairs = result.stdout
    .toString()
    .split('\n')
    .filter((line) => line !== '')
    .map((line): [string, bigint] => [line.split(' ')[0]!, BigInt(`0x${line.split(' ')[1]}`)])
  return new Map(pairs)
}

/**
 * Compiles headers of a tree (by default KVM's) and returns what is in them. Rejects with a KvitestError of code
 * ENOEXEC when they do not compile, ENOENT when the tree has none for the architecture.
 */
export async function compileHeaders(
  tree: HeaderTree,
  arch: Arch = 'x86',
  headers: readonly string[] = kvmHeaders,
): Promise<HeaderFacts> {
  if (tree.include[arch].length === 0) {
    throw new KvitestError('compile the UAPI headers', `${tree.name}: has no asm/kvm.h for ${arch}`, {
      code: 'ENOENT',
      hint: 'give a complete header tree of one kernel',
      infra: false,
    })
  }
  const place = await scratchDirectory()
  try {
    const compiler = await makeCompiler(tree, arch, place)
    const source = join(place, 'headers.c')
    await writeFile(source, includes(headers))
    const preprocessed = await runCommand([...compiler.argv, '-E', '-dD', source], { package: 'gcc' })
    if (preprocessed.status !== 0) throw broken(tree, arch, preprocessed)
    const own = ownText(preprocessed.stdout.toString(), headers)
    const object = await compileObject(compiler, arch, headers, '')
    const info = await runCommand(['readelf', '-W', '--debug-dump=info', object], { package: 'binutils' })
    const types = parseDebugInfo(info.stdout.toString())
    const values = await evaluate(compiler, arch, headers, own.macros)
    const defined = new Map(
      [...own.text.matchAll(/\b(struct|union)\s+(\w+)\s*\{/g)].map(([, keyword, name]) => [name!, keyword!]),
    )
    const words = new Set(own.text.match(/\w+/g))
    return {
      arch,
      macros: new Map(
        [...own.macros].map(([name, body]) => {
          const value = values.get(name)
          return [name, value === undefined ? { body } : { body, value }]
        }),
      ),
      enumerators: new Map([...types.enumerators].filter(([name]) => words.has(name))),
      structs: new Map([...types.structs].filter(([name]) => defined.has(name))),
      unions: new Set([...defined].filter(([, keyword]) => keyword === 'union').map(([name]) => name)),
    }
  } finally {
    await rm(place, { recursive: true, force: true })
  }
}

/** A shared object with the debug information of every type of the headers and of `declarations`. */
async function compileObject(
  compiler: Compiler,
  arch: Arch,
  headers: readonly string[],
  declarations: string,
): Promise<string> {
  const source = join(compiler.place, 'types.c')
  const object = join(compiler.place, 'types.so')
  await writeFile(source, includes(headers) + declarations)
  const flags = [
    '-g',
    '-fno-eliminate-unused-debug-types',
    '-shared',
    '-fPIC',
    '-nostdlib',
    '-o',
    object,
    source,
  ]
  const result = await runCommand([...compiler.argv, ...flags], { package: 'gcc' })
  if (result.status !== 0) throw broken(compiler.tree, arch, result)
  return object
}

/** The object that a tool reads to compare types: one exported pointer to each structure of `facts`, at `target`. */
export async function compileTypes(
  tree: HeaderTree,
  facts: HeaderFacts,
  headers: readonly string[],
  target: string,
): Promise<void> {
  const place = await scratchDirectory()
  try {
    const compiler = await makeCompiler(tree, facts.arch, place)
    const declarations = [...facts.structs.keys()].map((name) => {
      const keyword = facts.unions.has(name) ? 'union' : 'struct'
      return `${keyword} ${name} *of_${name};\n`
    })
    await cp(await compileObject(compiler, facts.arch, headers, declarations.join('')), target)
  } finally {
    await rm(place, { recursive: true, force: true })
  }
}
