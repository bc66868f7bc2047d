/** Finds the UAPI headers of a kernel: of Debian, of a directory, of a .deb. */
import { access, readdir, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { cached, prune } from '../../image/cache.ts'
import type { KernelPackage } from '../../image/debian.ts'
import { extractMembers, fetchFiles, servedPackages } from '../../image/debian-files.ts'
import { compareVersions, upstreamVersion } from '../../image/debian-version.ts'
import { fileHash } from '../../image/hash.ts'
import { KvitestError } from '../../native/error.ts'

export type Arch = 'x86' | 'arm64'

/** Where a compiler finds one kernel's UAPI headers. */
export interface HeaderTree {
  /** As asked for. */
  name: string
  /** Debian's package version where there is one. */
  version?: string
  /** `source`: as in a kernel tree, unsanitised; `installed`: as in /usr/include. */
  kind: 'source' | 'installed'
  root: string
  /** Folders for the compiler's -I, in order; empty for an architecture that the tree lacks. */
  include: Record<Arch, string[]>
}

export interface TreeOptions {
  /** Told one line when something is fetched. */
  note?: (line: string) => void
}

const members = [
  // Debian's linux-headers-*-common: the kernel tree's own headers.
  './usr/src/linux-headers-*/include/uapi',
  './usr/src/linux-headers-*/arch/x86/include/uapi',
  './usr/src/linux-headers-*/arch/arm64/include/uapi',
  // linux-libc-dev, before and since it is for all architectures.
  './usr/include/linux',
  './usr/include/asm-generic',
  './usr/include/x86_64-linux-gnu/asm',
  './usr/include/aarch64-linux-gnu/asm',
  './usr/lib/linux/uapi/x86',
  './usr/lib/linux/uapi/arm64',
]

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}

async function firstWith(folders: readonly string[], file: string): Promise<string[]> {
  for (const folder of folders) if (await exists(join(folder, file))) return [folder]
  return []
}

/** The headers in a directory: a kernel tree, an installed include folder, or what holds one of them. */
export async function treeOf(name: string, path: string): Promise<HeaderTree> {
  const sources = await readdir(join(path, 'usr/src')).catch(() => [])
  for (const root of [path, ...sources.map((one) => join(path, 'usr/src', one))]) {
    if (!(await exists(join(root, 'include/uapi/linux/kvm.h')))) continue
    const include = async (arch: Arch) => {
      const own = await firstWith([join(root, 'arch', arch, 'include/uapi')], 'asm/kvm.h')
      return own.length > 0 ? [...own, join(root, 'include/uapi')] : []
    }
    return {
      name,
      kind: 'source',
      root,
      include: { x86: await include('x86'), arm64: await include('arm64') },
    }
  }
  for (const root of [path, join(path, 'include'), join(path, 'usr/include')]) {
    if (!(await exists(join(root, 'linux/kvm.h')))) continue
    const folders = (triplet: string, arch: Arch) => [
      join(root, triplet),
      join(root, '../lib/linux/uapi', arch),
      ...(arch === 'x86' ? [root] : []),
    ]
    const include = async (triplet: string, arch: Arch) => {
      const own = await firstWith(folders(triplet, arch), 'asm/kvm.h')
      return own.length > 0 ? [...new Set([...own, root])] : []
    }
    return {
      name,
      kind: 'installed',
      root,
      include: {
        x86: await include('x86_64-linux-gnu', 'x86'),
        arm64: await include('aarch64-linux-gnu', 'arm64'),
      },
    }
  }
  throw new KvitestError('find the UAPI headers', `${name}: has no linux/kvm.h`, {
    code: 'ENOENT',
    hint: 'give debian:6.12, a .deb with headers, a kernel tree, or a folder such as usr/include',
  })
}

/** `trixie-backports/7.3` or `6.12` of a `debian:` name. */
function parseDebian(name: string): { suite?: string; wanted: string } {
  const match = /^debian:(?:([a-z][\w-]*)\/)?(\d[\w.+~-]*)$/.exec(name)
  if (!match) {
    throw new KvitestError('find the UAPI headers', `${name}: not a name`, {
      code: 'EINVAL',
      hint: 'write debian:6.12, debian:6.12.117, or debian:trixie-backports/7.3',
    })
  }
  return { wanted: match[2]!, ...(match[1] ? { suite: match[1] } : {}) }
}

/** Debian's newest package of common headers for a line (`6.12`), a version or an ABI (`6.1.0-56`). */
export async function debianHeaders(name: string): Promise<KernelPackage & { suite?: string }> {
  const { suite, wanted } = parseDebian(name)
  const served = await servedPackages(/^linux-headers-\d\S*-common$/, suite)
  const found = served
    .filter((one) => {
      const upstream = upstreamVersion(one.version)
      const abi = /^linux-headers-(\S+)-common$/.exec(one.package)![1]
      return [upstream, one.version, abi].includes(wanted) || upstream.startsWith(`${wanted}.`)
    })
    .toSorted((a, b) => compareVersions(a.version, b.version))
    .at(-1)
  if (found) return { package: found.package, version: found.version, ...(suite ? { suite } : {}) }
  const versions = [...new Set(served.map((one) => upstreamVersion(one.version)))].sort(compareVersions)
  throw new KvitestError('find the UAPI headers', `${name}: Debian serves no headers of it`, {
    code: 'ENOENT',
    hint: `known: ${versions.join(', ') || 'none'}; or give a path`,
  })
}

/** Opens `debian:6.12`, `debian:SUITE/7.3`, the path of a .deb, or that of a directory. */
export async function openTree(name: string, options: TreeOptions = {}): Promise<HeaderTree> {
  if (name.startsWith('debian:')) {
    const wanted = await debianHeaders(name)
    const path = await fetchFiles(`${wanted.package}_${wanted.version}`, {
      packages: [wanted],
      members,
      suite: wanted.suite,
      ...(options.note ? { note: options.note } : {}),
    })
    return { ...(await treeOf(name, path)), version: wanted.version }
  }
  const path = resolve(name)
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    throw new KvitestError(
      'find the UAPI headers',
      `${name}: ${error.code === 'ENOENT' ? 'no such file or directory' : error.code}`,
      {
        code: error.code,
        hint: 'give debian:6.12, a .deb with headers, or a directory',
        cause: error,
      },
    )
  })
  if (found.isDirectory()) return treeOf(name, path)
  const unpacked = await cached(['files', `${await fileHash(path)}.headers`], (target) =>
    extractMembers(path, members, target),
  )
  await prune('files', 24)
  return treeOf(name, unpacked)
}
