/** A program of a Debian package with every library that it loads, out of packages that are never installed. */
import { copyFile, lstat, mkdir, readdir, realpath, rename, rm, symlink } from 'node:fs/promises'
import { basename, dirname, join, relative } from 'node:path'
import { KvitestError } from '../native/error.ts'
import { cached, prune } from './cache.ts'
import { complaint, runCommand } from './command.ts'
import { aptCache, unpackDeb } from './debian.ts'
import { listsOf, servedPackages } from './debian-files.ts'
import { compareVersions } from './debian-version.ts'
import { textHash } from './hash.ts'

export interface PackageTree {
  /** Directory with the package and all that it depends on, unpacked over one another. */
  path: string
  /** `qemu-system-x86 1:7.2+dfsg-7+deb12u18`: of the package itself. */
  origin: string
  version: string
}

/** apt-cache's own word for "and what those depend on", without what one could do without. */
const dependsOnly = ['recommends', 'suggests', 'conflicts', 'breaks', 'replaces', 'enhances'].map(
  (relation) => `--no-${relation}`,
)

/**
 * The newest version of a package whose version `wanted` accepts, with its dependencies, in the cache. Rejects with
 * ENOENT when the archive serves none.
 */
export async function fetchPackageTree(
  name: string,
  wanted: (version: string) => boolean,
  suite?: string,
): Promise<PackageTree> {
  const served = await servedPackages(new RegExp(`^${name.replace(/[.+]/g, '\\$&')}$`), suite)
  const newest = served
    .filter(({ version }) => wanted(version))
    .toSorted((a, b) => compareVersions(a.version, b.version))
    .at(-1)
  if (!newest) {
    const known = [...new Set(served.map(({ version }) => version))].join(', ') || 'none'
    throw new KvitestError(`find ${name}`, 'Debian does not serve the version here', {
      code: 'ENOENT',
      hint: `known: ${known}`,
    })
  }
  const origin = `${name} ${newest.version}`
  const path = await cached(
    ['trees', `${name}-${textHash(`${suite} ${origin}`).slice(0, 32)}`],
    async (target) => {
      const lists = await listsOf(suite)
      const listed = await aptCache(lists, ['depends', '--recurse', ...dependsOnly, name])
      const names = listed.match(/^[a-z0-9][^\s:]*$/gm) ?? []
      const others = [...new Set(names)].filter((one) => one !== name)
      const debs = `${target}.debs`
      const tree = `${target}.tree`
      await mkdir(debs)
      const argv = ['apt-get', ...lists.options, 'download', '-q', '-o', 'APT::Sandbox::User=root']
      const fetched = await runCommand([...argv, `${name}=${newest.version}`, ...others], {
        cwd: debs,
        package: 'apt',
      })
      if (fetched.status !== 0) {
        throw new KvitestError(`fetch ${name} and what it depends on`, complaint(fetched), {
          code: 'ENETUNREACH',
          hint: 'connect this machine to a Debian archive',
        })
      }
      for (const deb of await readdir(debs)) {
        await unpackDeb(join(debs, deb), tree)
        await rm(join(debs, deb))
      }
      await rename(tree, target)
    },
  )
  await prune('trees', 8)
  return { path, origin, version: newest.version }
}

/** Where the loader looks without a cache of its own (glibc as Debian builds it). */
const libraryFolder = 'usr/lib/x86_64-linux-gnu'

/**
 * Copies programs of a tree (paths such as `usr/bin/perf`), the loader and every shared library that they need into
 * `root`. Rejects with ENOENT for a library that the tree lacks.
 */
export async function copyPrograms(tree: string, programs: readonly string[], root: string): Promise<void> {
  await mkdir(join(root, libraryFolder), { recursive: true })
  await mkdir(join(root, 'usr/lib64'), { recursive: true })
  // As on Debian since /usr was merged; every path of a loader or an interpreter leads into /usr.
  for (const name of ['lib', 'lib64', 'bin', 'sbin']) await symlink(`usr/${name}`, join(root, name))
  for (const program of programs) {
    await mkdir(dirname(join(root, program)), { recursive: true })
    await copyFile(await inTree(tree, program), join(root, program))
  }
  const libraries = await findLibraries(tree)
  const done = new Set<string>()
  let level = programs.map((program) => join(root, program))
  while (level.length > 0) {
    const needed = [...(await neededBy(level))].filter((name) => !done.has(name))
    level = []
    for (const name of needed) {
      done.add(name)
      const source = libraries.get(name)
      if (source === undefined) {
        throw new KvitestError('pack a program', `${programs[0]} needs ${name}, which no package brought`, {
          code: 'ENOENT',
        })
      }
      const isLoader = name.startsWith('ld-linux')
      const target = join(root, isLoader ? 'usr/lib64' : targetFolder(relative(tree, source)), name)
      await mkdir(dirname(target), { recursive: true })
      await copyFile(await realpath(source), target)
      level.push(target)
    }
  }
}

/** Copies files of a tree, links followed, to the same places below `root`. */
export async function copyData(tree: string, paths: readonly string[], root: string): Promise<void> {
  for (const path of paths) {
    await mkdir(dirname(join(root, path)), { recursive: true })
    await copyFile(await inTree(tree, path), join(root, path))
  }
}

/** Libraries that lie apart are found by the path that is written into who needs them. */
function targetFolder(path: string): string {
  const folder = dirname(path).replace(/^lib\//, 'usr/lib/')
  return folder === 'usr/lib' ? libraryFolder : folder
}

/** A file of a tree whose package has it in /bin or in /usr/bin. */
async function inTree(tree: string, path: string): Promise<string> {
  for (const one of [path, path.replace(/^usr\//, '')]) {
    const there = await lstat(join(tree, one)).catch(() => undefined)
    if (there) return realpath(join(tree, one))
  }
  throw new KvitestError('pack a program', `no package brought ${path}`, { code: 'ENOENT' })
}

/** Shared libraries of a tree by file name. Links that lead out of the tree are none. */
async function findLibraries(tree: string): Promise<Map<string, string>> {
  const found = new Map<string, string>()
  const entries = await readdir(tree, { recursive: true, withFileTypes: true })
  for (const entry of entries) {
    if (!/\.so(\.|$)/.test(entry.name) || entry.isDirectory()) continue
    const path = join(entry.parentPath, entry.name)
    if (await realpath(path).catch(() => undefined)) found.set(basename(path), path)
  }
  return found
}

/** Names of the libraries that files need themselves, and of their loader. */
async function neededBy(files: readonly string[]): Promise<Set<string>> {
  const result = await runCommand(['readelf', '-dlW', ...files], { package: 'binutils' })
  const text = result.stdout.toString()
  const names = new Set<string>()
  for (const [, name] of text.matchAll(/\(NEEDED\)\s+Shared library: \[([^\]]+)\]/g)) names.add(name!)
  for (const [, loader] of text.matchAll(/program interpreter: ([^\]]+)\]/g)) names.add(basename(loader!))
  return names
}
