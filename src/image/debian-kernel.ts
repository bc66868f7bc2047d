/** Kernels of the Debian archive by name: the newest and the oldest build of a line, and exact builds. */
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { KvitestError } from '../native/error.ts'
import { cachePath, scratchDirectory } from './cache.ts'
import {
  abiName,
  cachedKernels,
  fetchKernel,
  isGone,
  type KernelPackage,
  listsStamp,
  matches,
  servedKernels,
} from './debian.ts'
import { findGenericKernel, isGenericName } from './debian-generic.ts'
import { compareVersions, upstreamVersion } from './debian-version.ts'

/** What a name means, as far as it is one of Debian's. */
interface KernelName {
  /** `6.12` (a line), `6.12.117` or `6.1.0-57` (a build). */
  wanted: string
  /** Of a line: the end of it that is meant, which moves with the archive. */
  end?: 'newest' | 'oldest'
}

/** A build that the archive serves. */
export interface ServedBuild extends KernelPackage {
  /** The name by which it is this build for ever: `debian:6.12.117-cloud`. */
  name: string
  /** `6.12` */
  line: string
  /** uname -r */
  release: string
  /** It is one end of its line today, or both. */
  isNewest: boolean
  isOldest: boolean
}

function parseName(name: string): KernelName | undefined {
  const match = /^debian:([\w.+~-]+)-cloud(?:@(newest|oldest))?$/.exec(name)
  const wanted = match?.[1]
  if (wanted === undefined) return undefined
  if (lineOf(wanted) !== wanted) {
    if (match?.[2] === undefined) return { wanted }
    throw new KvitestError('find the kernel', `${name}: @${match[2]} of one exact build`, {
      code: 'EINVAL',
      hint: `write debian:${lineOf(wanted)}-cloud@${match[2]}, or ${name.replace(/@.*/, '')}`,
    })
  }
  return { wanted, end: (match?.[2] ?? 'newest') as 'newest' | 'oldest' }
}

/** `6.12` of `6.12`, `6.12.117` and `6.1.0-57`. */
function lineOf(version: string): string {
  return version.split('.', 2).join('.')
}

function byAge(packages: readonly KernelPackage[]): KernelPackage[] {
  return packages.toSorted((a, b) => compareVersions(a.version, b.version))
}

function releaseOf({ package: name }: KernelPackage): string {
  return `${abiName(name)}-cloud-amd64`
}

/** Every build that the archive serves of these lines (default: of all), line by line, the oldest first. */
export async function servedBuilds(lines?: readonly string[]): Promise<ServedBuild[]> {
  const served = byAge(await servedKernels())
  const of = (line: string) => served.filter(({ version }) => lineOf(version) === line)
  const all = [...new Set(served.map(({ version }) => lineOf(version)))]
  return (lines ?? all).flatMap((line) => {
    const builds = of(line)
    if (builds.length === 0) throw unknownKernel(`debian:${line}-cloud`, served)
    const upstreams = builds.map(({ version }) => upstreamVersion(version))
    return builds.map((build, at): ServedBuild => {
      const upstream = upstreams[at]!
      // Two packages of one upstream version are told apart by the names of their ABIs.
      const isAlone = upstreams.filter((one) => one === upstream).length === 1
      return {
        ...build,
        name: `debian:${isAlone ? upstream : abiName(build.package)}-cloud`,
        line,
        release: releaseOf(build),
        isNewest: at === builds.length - 1,
        isOldest: at === 0,
      }
    })
  })
}

/** Of a name that is none, or of a build that is served no more: one line that says what there is instead. */
export function unknownKernel(name: string, packages: readonly KernelPackage[]): KvitestError {
  const wanted = /^debian:([\w.+~-]+)-cloud$/.exec(name)?.[1]
  const ofLine = wanted === undefined ? [] : byAge(packages).filter((one) => isOfLine(wanted, one))
  const versions = byAge(packages).map((one) => upstreamVersion(one.version))
  if (wanted !== undefined && lineOf(wanted) !== wanted && ofLine.length > 0) {
    const [first, last] = [ofLine[0]!, ofLine.at(-1)!].map((one) => upstreamVersion(one.version))
    return new KvitestError(
      'find the kernel',
      `${name}: the archive does not serve this build, and it is not in the cache; of ${lineOf(wanted)} there is ${first} to ${last}`,
      { code: 'ENOENT', hint: 'kvitest kernel ls lists the builds; a build that was kept goes by its path' },
    )
  }
  const lines = new Set(versions.toReversed().map(lineOf))
  const names = [...lines, ...new Set(versions.toReversed())].map((version) => `debian:${version}-cloud`)
  const list = names.length > 0 ? `known: ${names.join(', ')}` : 'names look like debian:6.12-cloud'
  return new KvitestError('find the kernel', `${name}: no such kernel`, {
    code: 'ENOENT',
    hint: `${list}; or give a path`,
  })
}

function isOfLine(wanted: string, { version }: KernelPackage): boolean {
  return lineOf(version) === lineOf(wanted)
}

interface Remembered extends KernelPackage {
  stamp: string
}

function memoryOf({ wanted, end }: KernelName): string {
  return cachePath('names', `${wanted}${end === 'oldest' ? '@oldest' : ''}.json`)
}

async function remembered(name: KernelName): Promise<Remembered | undefined> {
  try {
    return JSON.parse(await readFile(memoryOf(name), 'utf8')) as Remembered
  } catch {
    return undefined
  }
}

async function remember(name: KernelName, value: Remembered): Promise<void> {
  const scratch = join(await scratchDirectory(), 'name')
  await writeFile(scratch, JSON.stringify(value))
  await mkdir(dirname(memoryOf(name)), { recursive: true })
  await rename(scratch, memoryOf(name))
  await rm(dirname(scratch), { recursive: true, force: true })
}

/** A kernel package in the cache. */
export interface FoundKernel {
  /** Directory that it is unpacked to. */
  path: string
  release: string
  version: string
}

/**
 * The build that a name means, fetched when it is not in the cache. A name that moves stays with its build until the
 * package lists change. Rejects with ENOENT for what is no name and for a build that is served no more.
 */
export async function findDebianKernel(name: string, note: (line: string) => void): Promise<FoundKernel> {
  if (isGenericName(name)) return findGenericKernel(name, note)
  const parsed = parseName(name)
  if (!parsed) throw unknownKernel(name, await servedKernels().catch(() => cachedKernels()))
  const found = async (chosen: KernelPackage): Promise<FoundKernel> => ({
    path: await fetchKernel(chosen, note),
    release: releaseOf(chosen),
    version: chosen.version,
  })
  const inLine = (packages: readonly KernelPackage[]) => {
    const mine = byAge(packages.filter((candidate) => matches(parsed.wanted, candidate)))
    return parsed.end === 'oldest' ? mine : mine.toReversed()
  }
  const local = await cachedKernels()
  const [inCache] = inLine(local)
  const stamp = await listsStamp().catch(() => '')
  const before = parsed.end ? await remembered(parsed) : undefined
  const settled = parsed.end ? (before?.stamp === stamp ? before : undefined) : inCache
  if (settled && local.some((p) => p.package === settled.package && p.version === settled.version)) {
    return found(settled)
  }
  try {
    const packages = await servedKernels()
    const candidates = inLine(packages)
    if (candidates.length === 0) throw unknownKernel(name, packages)
    const [chosen, kernel] = await firstThere(candidates, parsed, found, note)
    if (parsed.end) await remember(parsed, { ...chosen, stamp: await listsStamp() }).catch(() => {})
    return kernel
  } catch (error) {
    if (inCache === undefined) throw error
    note(
      `${name}: the archive does not answer, using ${inCache.version} from the cache (${(error as Error).message})`,
    )
    return found(inCache)
  }
}

/** The oldest build is the next one to go: where the lists still name one that went, the one after it is the oldest. */
async function firstThere(
  candidates: readonly KernelPackage[],
  { end }: KernelName,
  found: (one: KernelPackage) => Promise<FoundKernel>,
  note: (line: string) => void,
): Promise<[KernelPackage, FoundKernel]> {
  for (const [at, one] of candidates.entries()) {
    try {
      return [one, await found(one)]
    } catch (error) {
      if (!isGone(error) || end !== 'oldest' || at === candidates.length - 1) throw error
      note(`${upstreamVersion(one.version)} has left the archive, looking at the build after it`)
    }
  }
  throw new Error('no candidates')
}
