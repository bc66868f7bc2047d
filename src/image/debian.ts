import { mkdir, readdir, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { KvitestError } from '../native/error.ts'
import { cached, cachePath, makeDirectory, prune, storageError, withLock } from './cache.ts'
import { complaint, runCommand } from './command.ts'
import { upstreamVersion } from './debian-version.ts'

/** A kernel image package that apt knows, or one that is in the cache. */
export interface KernelPackage {
  /** `linux-image-6.12.117+deb12-cloud-amd64` */
  package: string
  /** `6.12.117-1~deb12u1` */
  version: string
}

/** Where apt keeps its package lists: the system's, or ours where the system has none. */
export interface Lists {
  options: string[]
  path: string
  /** Where apt keeps what it makes of them. */
  cache: string
  /** Of a directory of our own. */
  root?: string
}

const packagePattern = /^linux-image-(\d\S*)-cloud-amd64$/

/** The part of a package name that a person types: `6.12.117+deb12` */
export function abiName(packageName: string): string {
  return packagePattern.exec(packageName)?.[1] ?? packageName
}

/** `debian:` names of a package: by ABI (`debian:6.1.0-56-cloud`) and by upstream version (`debian:6.1.192-cloud`). */
export function matches(wanted: string, candidate: KernelPackage): boolean {
  const upstream = upstreamVersion(candidate.version)
  return (
    wanted === abiName(candidate.package) ||
    wanted === upstream ||
    (/^\d+\.\d+$/.test(wanted) && upstream.startsWith(`${wanted}.`))
  )
}

function apt(...argv: string[]): string[] {
  // Root's apt drops to the user _apt for downloads, who may not be able to write where we want them, and says
  // so at length; verification is the same.
  return [...argv, '-q', '-o', 'APT::Sandbox::User=root']
}

/** Has apt keep its index of lists, which takes seconds to make: in a container it is told to keep none. */
export function indexOption(cache: string, name = 'index'): string[] {
  return ['-o', `Dir::Cache::pkgcache=${join(cache, `${name}.bin`)}`]
}

/** The package lists of this machine. */
export async function systemLists(): Promise<Lists> {
  const cache = cachePath('apt', 'system')
  // Where nothing can be written apt does without.
  await makeDirectory(cache).catch(() => {})
  const result = await runCommand(['apt-config', 'shell', 'dir', 'Dir::State::lists/d'], { package: 'apt' })
  const path = /^dir='(.*)'$/m.exec(result.stdout.toString())?.[1] ?? '/var/lib/apt/lists/'
  return { options: indexOption(cache), path, cache }
}

/** Package lists in a directory of our own: for the system's own sources, or for those of `sourceList`. */
export function privateLists(root = cachePath('apt'), sourceList?: string): Lists {
  const sources = sourceList === undefined ? [] : [`list=${sourceList}`, 'parts=-']
  const cache = join(root, 'cache')
  return {
    root,
    cache,
    path: join(root, 'state/lists'),
    options: [
      ...sources.flatMap((source) => ['-o', `Dir::Etc::source${source}`]),
      '-o',
      `Dir::State=${root}/state`,
      '-o',
      `Dir::Cache=${cache}`,
      ...indexOption(cache),
      '-o',
      'Dir::State::status=/var/lib/dpkg/status',
    ],
  }
}

export async function hasLists(lists: Lists): Promise<boolean> {
  const names = await readdir(lists.path).catch(() => [])
  return names.some(
    (name) => name.includes('_Packages') || name.includes('InRelease') || name.endsWith('_Release'),
  )
}

/** What `apt-cache ARGV...` prints; rejects when it fails, for what is missing then is not missing in the archive. */
export async function aptCache({ options }: Lists, argv: readonly string[]): Promise<string> {
  const result = await runCommand(['apt-cache', ...options, ...argv], { package: 'apt' })
  if (result.status !== 0) throw offline(`read the package lists (apt-cache ${argv[0]})`, complaint(result))
  return result.stdout.toString()
}

/** Every version of every package whose name matches a regular expression, as apt's lists have them. */
export async function searchPackages(
  pattern: RegExp,
  lists: Lists,
): Promise<(KernelPackage & { isMeta: boolean })[]> {
  // apt's expressions are POSIX extended: they know no \d and no \S.
  const posix = pattern.source.replaceAll('\\d', '[0-9]').replaceAll('\\S', '[^ ]')
  const names = await aptCache(lists, ['search', '--names-only', posix])
  const packages = names
    .split('\n')
    .map((line) => line.split(' ', 1)[0]!)
    .filter((name) => pattern.test(name))
  if (packages.length === 0) return []
  const shown = await aptCache(lists, ['show', ...packages])
  return shown.split(/\n\n+/).flatMap((stanza) => {
    const name = /^Package: (.*)$/m.exec(stanza)?.[1]
    const version = /^Version: (.*)$/m.exec(stanza)?.[1]
    return name && version ? [{ package: name, version, isMeta: /meta-package/.test(stanza) }] : []
  })
}

/** What apt serves now, newest knowledge that is on this machine. */
async function readServed(lists: Lists): Promise<KernelPackage[]> {
  // Debian's meta packages (linux-image-6.12-cloud-amd64) hold no image.
  const found = await searchPackages(packagePattern, lists)
  return found.filter((one) => !one.isMeta).map(({ package: name, version }) => ({ package: name, version }))
}

/** Fetches package lists into our own directory; needs no root. */
export async function refresh(lists = privateLists()): Promise<Lists> {
  await withLock('apt', async () => {
    for (const part of ['state/lists/partial', 'cache/archives/partial']) {
      await makeDirectory(join(lists.root!, part))
    }
    const result = await runCommand(['apt-get', ...lists.options, ...apt('update')], { package: 'apt' })
    // apt-get update exits 0 on sources that cannot be reached, with a warning.
    if (result.status !== 0 || !(await hasLists(lists)))
      throw offline('read the list of Debian kernels', complaint(result))
  })
  return lists
}

/** What apt could not do, by what it said of it. */
function offline(operation: string, detail: string): KvitestError {
  if (/No space left/i.test(detail)) {
    return storageError(cachePath(), Object.assign(new Error(detail), { code: 'ENOSPC' })) as KvitestError
  }
  return new KvitestError(operation, detail, {
    code: 'ENETUNREACH',
    hint: 'connect this machine to a Debian archive (the first use of a kernel needs it), or give the path of a kernel',
  })
}

/** The archive answers and has it no more. */
function gone({ package: name, version }: WantedPackage, detail: string): KvitestError {
  return new KvitestError(
    `fetch ${name}`,
    `${version ?? 'it'} has left the archive, whatever this machine's package lists say (${detail})`,
    {
      code: 'ESTALE',
      hint: 'apt-get update renews the lists; kvitest kernel ls lists the kernels that are served',
    },
  )
}

export function isGone(error: unknown): boolean {
  return error instanceof KvitestError && error.code === 'ESTALE'
}

/** Newer package lists may help. */
export function isRenewable(error: unknown): boolean {
  return error instanceof KvitestError && (error.code === 'ENETUNREACH' || error.code === 'ESTALE')
}

interface Served {
  lists: Lists
  packages: KernelPackage[]
}

let served: Promise<Served> | undefined

async function findServed(): Promise<Served> {
  const system = await systemLists()
  for (const lists of [system, privateLists()]) {
    if (!(await hasLists(lists))) continue
    const packages = await readServed(lists)
    if (packages.length > 0) return { lists, packages }
  }
  const lists = await refresh()
  return { lists, packages: await readServed(lists) }
}

/** Kernel packages that the Debian archive serves, as far as this machine's package lists say. */
export async function servedKernels(): Promise<KernelPackage[]> {
  return (await findServedOnce()).packages
}

/** The package lists in use, with the kernels that they serve. */
export function findServedOnce(): Promise<Served> {
  if (!served) {
    served = findServed()
    served.catch(() => {
      served = undefined
    })
  }
  return served
}

/** Time of the last change of the package lists in use: a moving name stays where it is until they change. */
export async function listsStamp(): Promise<string> {
  const stamps = await Promise.all(
    [await systemLists(), privateLists()].map((lists) =>
      stat(lists.path).then(
        (s) => String(s.mtimeMs),
        () => '-',
      ),
    ),
  )
  return stamps.join(' ')
}

function productName(wanted: KernelPackage): string {
  return `${wanted.package}_${wanted.version.replaceAll(':', '%3a')}`
}

/** Kernel packages of the cloud flavour in the cache. */
export async function cachedKernels(): Promise<KernelPackage[]> {
  return (await cachedPackages()).filter((one) => packagePattern.test(one.package))
}

/** Kernel packages of every flavour in the cache. */
export async function cachedPackages(): Promise<KernelPackage[]> {
  const names = await readdir(cachePath('kernels')).catch(() => [])
  return names.flatMap((name) => {
    const match = /^(linux-image-\S+)_(\S+)$/.exec(name)
    return match ? [{ package: match[1]!, version: match[2]!.replaceAll('%3a', ':') }] : []
  })
}

/** Unpacks a .deb without root. */
export async function unpackDeb(deb: string, target: string): Promise<void> {
  const result = await runCommand(['dpkg-deb', '-x', deb, target], { package: 'dpkg' })
  if (result.status === 0) return
  const detail = complaint(result)
  if (/No space left/i.test(result.stderr)) {
    throw storageError(target, Object.assign(new Error(detail), { code: 'ENOSPC' }))
  }
  throw new KvitestError('unpack the kernel package', `${deb}: ${detail}`, {
    code: 'EILSEQ',
    hint: 'the package is damaged: run the command again to fetch it anew',
  })
}

/** A package by name; without a version the one that apt would install. */
export interface WantedPackage {
  package: string
  version?: string
}

/** Downloads one package into `directory`, which it makes, and returns the file's path. */
export async function download(wanted: WantedPackage, lists: Lists, directory: string): Promise<string> {
  const name = wanted.version === undefined ? wanted.package : `${wanted.package}=${wanted.version}`
  const argv = ['apt-get', ...lists.options, ...apt('download'), name]
  await mkdir(directory)
  const result = await runCommand(argv, { cwd: directory, package: 'apt' })
  const deb = (await readdir(directory)).find((file) => file.endsWith('.deb'))
  if (result.status !== 0 || deb === undefined) {
    const detail = complaint(result)
    throw /\b404\b|not found|Unable to locate|Failed to stat/i.test(`${result.stdout}${result.stderr}`)
      ? gone(wanted, detail)
      : offline(`fetch ${wanted.package}`, detail)
  }
  return join(directory, deb)
}

/** Fetches packages with apt, its signatures and checksums, and unpacks them over one another, without root. */
export async function fetchUnpacked(wanted: readonly WantedPackage[], target: string): Promise<void> {
  const unpacked = `${target}.unpacked`
  for (const [index, one] of wanted.entries()) {
    const directory = `${target}.deb${index}`
    const { lists } = await findServedOnce()
    const deb = await download(one, lists, directory).catch(async (error: unknown) => {
      // Lists older than the archive name files that are gone; ours can always be renewed.
      if (!isRenewable(error)) throw error
      return download(one, await refresh(), `${directory}.again`).catch(() => {
        throw error
      })
    })
    await unpackDeb(deb, unpacked)
    await rm(deb)
  }
  await rename(unpacked, target)
}

/** Names of the packages that a package of the archive depends on. */
export async function dependenciesOf(name: string): Promise<string[]> {
  const { lists } = await findServedOnce()
  const listed = await aptCache(lists, ['depends', '--important', name])
  return [...listed.matchAll(/^ *Depends: (\S+)$/gm)].map((match) => match[1]!)
}

/**
 * The unpacked package in the cache, fetched with apt (its signatures and checksums) when absent. Several
 * processes that ask at once fetch once.
 */
export async function fetchKernel(wanted: KernelPackage, note: (line: string) => void): Promise<string> {
  const path = await cached(['kernels', productName(wanted)], async (target) => {
    note(`fetching ${wanted.package} (${wanted.version})`)
    await fetchUnpacked([wanted], target)
    await writeFile(join(target, 'package.json'), `${JSON.stringify(wanted)}\n`)
  })
  await prune('kernels', 24)
  return path
}
