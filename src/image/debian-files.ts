/** Single files out of Debian packages that are never installed: headers, documentation, configs. */
import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { KvitestError } from '../native/error.ts'
import { cached, cachePath, makeDirectory } from './cache.ts'
import { complaint, runCommand } from './command.ts'
import {
  download,
  findServedOnce,
  hasLists,
  isRenewable,
  type KernelPackage,
  type Lists,
  privateLists,
  refresh,
  searchPackages,
  type WantedPackage,
} from './debian.ts'

const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg'

/**
 * The package lists of one suite (`trixie-backports`), kept apart from this machine's own sources and verified with
 * Debian's own keys; without a suite, this machine's.
 */
export async function listsOf(suite: string | undefined, isFresh = false): Promise<Lists> {
  if (suite === undefined) return isFresh ? refresh() : (await findServedOnce()).lists
  const root = cachePath('apt', 'suites', suite)
  const sources = join(root, 'sources.list')
  const lists = privateLists(root, sources)
  if (!isFresh && (await hasLists(lists))) return lists
  await makeDirectory(root)
  await writeFile(sources, `deb [signed-by=${keyring}] http://deb.debian.org/debian ${suite} main\n`)
  return refresh(lists)
}

const searches = new Map<string, Promise<KernelPackage[]>>()

/** Packages whose names match a regular expression, every version that the archive serves of each; asked once. */
export function servedPackages(pattern: RegExp, suite?: string): Promise<KernelPackage[]> {
  const key = `${suite ?? ''} ${pattern.source}`
  let found = searches.get(key)
  if (!found) {
    found = listsOf(suite).then((lists) => searchPackages(pattern, lists))
    searches.set(key, found)
    found.catch(() => searches.delete(key))
  }
  return found
}

/** What is taken out of packages: paths as in the archive (`./usr/...`), `*` for one part of a path. */
export interface FilesWanted {
  packages: WantedPackage[]
  members: string[]
  /** Suite of the Debian archive; this machine's own sources without. */
  suite?: string | undefined
  /** Told one line before something is fetched. */
  note?: (line: string) => void
}

/** Takes members out of a .deb, without root and without unpacking the rest. */
export async function extractMembers(deb: string, members: readonly string[], target: string): Promise<void> {
  // A pattern that matches nothing is the caller's to judge; whatever else tar or dpkg-deb has to say is a failure.
  const script = `set -o pipefail
mkdir -p "$1"
dpkg-deb --fsys-tarfile "$0" | {
  tar -x -C "$1" --no-same-owner --wildcards --no-wildcards-match-slash "\${@:2}" 2>"$1.said" && exit
  grep -v -e 'Not found in archive' -e 'Exiting with failure' "$1.said" >&2 && exit 1
  exit 0
}`
  const result = await runCommand(['bash', '-c', script, deb, target, ...members], { package: 'dpkg' })
  await rm(`${target}.said`, { force: true })
  if (result.status === 0) return
  throw new KvitestError('read the package', `${deb}: ${complaint(result)}`, {
    code: 'EILSEQ',
    hint: 'give a complete .deb file',
  })
}

/** Files of packages as one directory in the cache, `key` naming it; fetched with apt when absent. */
export async function fetchFiles(key: string, wanted: FilesWanted): Promise<string> {
  return cached(['files', key], async (target) => {
    const unpacked = `${target}.unpacked`
    await mkdir(unpacked)
    for (const [index, one] of wanted.packages.entries()) {
      const directory = `${target}.deb${index}`
      wanted.note?.(`fetching ${one.package} (${one.version ?? 'newest'})`)
      const deb = await download(one, await listsOf(wanted.suite), directory).catch(
        async (error: unknown) => {
          // Lists older than the archive name files that are gone.
          if (!isRenewable(error)) throw error
          return download(one, await listsOf(wanted.suite, true), `${directory}.again`).catch(() => {
            throw error
          })
        },
      )
      await extractMembers(deb, wanted.members, unpacked)
      await rm(deb)
    }
    if ((await readdir(unpacked)).length === 0) {
      const names = wanted.packages.map((one) => one.package).join(', ')
      throw new KvitestError('read the package', `${names}: has none of ${wanted.members.join(' ')}`, {
        code: 'ENOENT',
      })
    }
    await rename(unpacked, target)
  })
}
