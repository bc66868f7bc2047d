/** Makes the catalogue's data from Debian's packages: headers compiled, api.rst read, the two held together. */
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { gunzip } from 'node:zlib'
import { fetchFiles } from '../../image/debian-files.ts'
import { textHash } from '../../image/hash.ts'
import { KvitestError } from '../../native/error.ts'
import { compileHeaders } from '../headers/compile.ts'
import { debianHeaders, type HeaderTree, openTree, type TreeOptions } from '../headers/tree.ts'
import { additions } from './additions.ts'
import { buildCatalogue } from './build.ts'
import { type KnownDisagreement, knownDisagreements } from './known-disagreements.ts'
import { parseApi } from './rst.ts'
import type { CatalogueData } from './types.ts'

/** Kernel lines of the catalogue, oldest first, with where Debian has them. */
export const catalogued: readonly { version: string; tree: string }[] = [
  { version: '6.1', tree: 'debian:6.1' },
  { version: '6.12', tree: 'debian:6.12' },
  { version: '7.3', tree: 'debian:trixie-backports/7.3' },
]

export const dataFolder = fileURLToPath(new URL('data/', import.meta.url))

/** The sources of one version, on this machine. */
export interface Sources {
  version: string
  tree: HeaderTree
  /** Text of api.rst. */
  api: string
}

/** api.rst of the documentation package that was built from the same source as the headers. */
async function fetchApi(version: string, tree: string, options: TreeOptions): Promise<string> {
  const headers = await debianHeaders(tree)
  const doc = `linux-doc-${version}`
  const member = `./usr/share/doc/${doc}/Documentation/virt/kvm/api.rst.gz`
  const path = await fetchFiles(`${doc}_${headers.version}`, {
    packages: [{ package: doc, version: headers.version }],
    members: [member],
    suite: headers.suite,
    ...options,
  })
  return (await promisify(gunzip)(await readFile(join(path, member)))).toString()
}

export async function fetchSources(version: string, options: TreeOptions = {}): Promise<Sources> {
  const entry = catalogued.find((one) => one.version === version)
  if (!entry) {
    throw new KvitestError('make the catalogue', `${version}: not a version of the catalogue`, {
      code: 'ENOENT',
      hint: `known: ${catalogued.map((one) => one.version).join(', ')}; src/abi/catalogue/generate.ts lists them`,
      infra: false,
    })
  }
  const tree = await openTree(entry.tree, options)
  return { version, tree, api: await fetchApi(version, entry.tree, options) }
}

/** Lines that are no known disagreement, and known ones that are gone. */
export function unexpected(
  version: string,
  disagreements: readonly string[],
  known: readonly KnownDisagreement[],
): string[] {
  const here = known.filter((one) => one.versions.includes(version))
  const listed = new Set(here.map((one) => one.line))
  return [
    ...disagreements.filter((line) => !listed.has(line)).map((line) => `${version}: ${line}`),
    ...here
      .filter((one) => !disagreements.includes(one.line))
      .map((one) => `${version}: known disagreement is gone: ${one.line}`),
  ]
}

/** One version's data and what its sources disagree in without our knowing why. */
export async function generate(sources: Sources): Promise<{ data: CatalogueData; problems: string[] }> {
  const { version, tree, api } = sources
  const [x86, arm64] = [await compileHeaders(tree, 'x86'), await compileHeaders(tree, 'arm64')]
  const header = await readFile(join(tree.root, 'include/uapi/linux/kvm.h'), 'utf8')
  const name = `api.rst of ${version}`
  const input = { x86, arm64, api: parseApi(api, name), header }
  const { data, disagreements } = buildCatalogue(input, additions)
  return {
    data: {
      version,
      sources: { debian: tree.version ?? '', 'api.rst': textHash(api), 'linux/kvm.h': textHash(header) },
      ...data,
    },
    problems: unexpected(version, disagreements, knownDisagreements),
  }
}

/** One entry a line, so that a review shows what changed and nothing else. */
export function renderData(data: CatalogueData): string {
  const tables = Object.entries(data).map(([key, value]) => {
    if (typeof value === 'string') return `  ${JSON.stringify(key)}: ${JSON.stringify(value)}`
    const rows = Object.entries(value as Record<string, unknown>).map(
      ([name, entry]) => `    ${JSON.stringify(name)}: ${JSON.stringify(entry)}`,
    )
    return `  ${JSON.stringify(key)}: {\n${rows.join(',\n')}\n  }`
  })
  return `{\n${tables.join(',\n')}\n}\n`
}

/** Writes all of them or none. */
export async function writeData(all: readonly CatalogueData[], folder = dataFolder): Promise<void> {
  await mkdir(folder, { recursive: true })
  const scratch = all.map((data) => join(folder, `.${data.version}.json.${process.pid}`))
  try {
    for (const [index, data] of all.entries()) await writeFile(scratch[index]!, renderData(data))
    for (const [index, data] of all.entries())
      await rename(scratch[index]!, join(folder, `${data.version}.json`))
  } finally {
    for (const path of scratch) await rm(path, { force: true })
  }
}

/** Lines `section.name: was -> is` for what differs, the sources themselves not counted. */
export function compareData(committed: CatalogueData, made: CatalogueData): string[] {
  const lines: string[] = []
  const tables = ['chapters', 'ioctls', 'capabilities', 'exitReasons', 'structs', 'constants'] as const
  for (const table of tables) {
    const [before, after] = [committed[table], made[table]] as Record<string, unknown>[]
    for (const name of new Set([...Object.keys(before!), ...Object.keys(after!)])) {
      const [was, is] = [JSON.stringify(before![name]), JSON.stringify(after![name])]
      if (was !== is)
        lines.push(`${committed.version}: ${table}.${name}: ${was ?? 'absent'} -> ${is ?? 'absent'}`)
    }
  }
  return lines
}
