/** Debian packages for a guest, unpacked without root into a read-only file system that is a disk of it. */
import { mkdir, readdir, readFile, readlink, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { basename, join, relative } from 'node:path'
import { KvitestError } from '../native/error.ts'
import { cached, prune, storageError } from './cache.ts'
import { complaint, runCommand } from './command.ts'
import { textHash } from './hash.ts'
import type { NewcEntry } from './newc.ts'
import { fetchClosure, packageClosure } from './package-closure.ts'

export interface GuestPackages {
  /** A squashfs; the disk with the serial `packagesSerial` has it. */
  image: string
  /** What the initramfs has besides: links to what is on the disk, and /etc. */
  entries: NewcEntry[]
  /** Links that stand back where busybox has a program of that name. */
  fallbacks: NewcEntry[]
  /** `fio=3.33-3`, all that was unpacked. */
  closure: string[]
}

/** Serial and name of the disk; the agent looks for it. */
export const packagesDisk = 'kvitest.packages'
/** Where the agent mounts it. */
const mountPoint = 'lib/kvitest/packages'
/** Modules that the disk needs. */
export const packagesModules = ['virtio_blk', 'squashfs']

/** What nobody reads in a guest is a tenth of it. */
const dropped = ['doc', 'info', 'lintian', 'locale', 'man'].map((name) => `usr/share/${name}`)
const merged = ['bin', 'sbin', 'lib', 'lib64']
/** The initramfs' own. */
const notLinked = [...merged, 'etc', 'dev', 'proc', 'run', 'sys', 'tmp', 'root', 'var', 'boot']

interface Manifest {
  closure: string[]
  /** Programs of the packages that were asked for, and of the others: `usr/bin/fio`. */
  programs: string[]
  others: string[]
  /** Directories of the tree that the initramfs links to. */
  top: string[]
}

/** Bump it when the same packages shall give another image. */
const format = 1

/** The packages and all that they depend on, in the cache by content; undefined for an empty list. */
export async function guestPackages(names: readonly string[]): Promise<GuestPackages | undefined> {
  if (names.length === 0) return undefined
  const closure = await packageClosure(names)
  const key = textHash(JSON.stringify([format, [...new Set(names)].sort(), closure])).slice(0, 32)
  const path = await cached(['guest-packages', key], (target) => build(names, closure, target))
  await prune('guest-packages', 16)
  const manifest = JSON.parse(await readFile(join(path, 'manifest.json'), 'utf8')) as Manifest
  const entries = [...linksOf(manifest), ...(await configurationOf(join(path, 'etc')))]
  const fallbacks = manifest.others.map(commandLink)
  return { image: join(path, 'image.squashfs'), entries, fallbacks, closure: manifest.closure }
}

async function build(names: readonly string[], closure: string[], target: string): Promise<void> {
  process.stderr.write(`kvitest: fetching ${names.join(', ')} for guests (${closure.length} packages)\n`)
  const tree = `${target}.tree`
  await mkdir(join(tree, 'usr'), { recursive: true })
  // As on Debian since /usr was merged; dpkg-deb unpacks through the links.
  for (const name of merged) {
    await mkdir(join(tree, 'usr', name))
    await symlink(`usr/${name}`, join(tree, name))
  }
  const debs = await fetchClosure(closure, `${target}.debs`)
  const isNamed = (deb: string) => names.includes(basename(deb).split('_', 1)[0]!)
  // Those that were asked for last: what is there then and was not before is theirs.
  await unpack(
    debs.filter((one) => !isNamed(one)),
    tree,
  )
  const others = await programsOf(tree)
  await unpack(debs.filter(isNamed), tree)
  const programs = (await programsOf(tree)).filter((one) => !others.includes(one))
  for (const name of merged) {
    if ((await readlink(join(tree, name)).catch(() => '')) === `usr/${name}`) continue
    throw new KvitestError('unpack packages for the guest', `/${name} became a directory of its own`, {
      code: 'EEXIST',
      hint: 'leave out the package that brings it',
    })
  }
  for (const path of dropped) await rm(join(tree, path), { recursive: true, force: true })
  const product = `${target}.made`
  await mkdir(join(product, 'etc'), { recursive: true })
  await rename(join(tree, 'etc'), join(product, 'etc')).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error
  })
  await makeImage(tree, join(product, 'image.squashfs'))
  const found = await readdir(tree, { withFileTypes: true })
  const top = found.filter((one) => one.isDirectory() && !notLinked.includes(one.name)).map((one) => one.name)
  const manifest: Manifest = { closure, programs, others, top: top.sort() }
  await writeFile(join(product, 'manifest.json'), JSON.stringify(manifest))
  await rename(product, target)
}

/** Over one another, /bin and the like into /usr; `dpkg-deb -x` would put directories in place of the links. */
async function unpack(debs: readonly string[], tree: string): Promise<void> {
  const script = `set -e -o pipefail
for deb in "$@"; do
  dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$0" --keep-directory-symlink --no-same-owner --no-same-permissions
done`
  const result = await runCommand(['bash', '-c', script, tree, ...debs], { package: 'dpkg' })
  if (result.status === 0) return
  const detail = complaint(result)
  if (/No space left/i.test(result.stderr)) {
    throw storageError(tree, Object.assign(new Error(detail), { code: 'ENOSPC' }))
  }
  throw new KvitestError('unpack packages for the guest', detail, {
    code: 'EILSEQ',
    hint: 'a package is damaged: run the command again to fetch it anew',
  })
}

/** Programs of a tree: `usr/bin/fio`. */
async function programsOf(tree: string): Promise<string[]> {
  const found = await Promise.all(
    ['usr/bin', 'usr/sbin'].map(async (folder) =>
      (await readdir(join(tree, folder)).catch(() => [])).map((name) => `${folder}/${name}`),
    ),
  )
  return found.flat().sort()
}

/**
 * LZ4, unpacked at next to no price: of fio, iperf3, e2fsprogs, rng-tools5 and socat with all that they need, 192 MB, it makes
 * 93 MB in half a second. A lab holds the image in its memory, where 192 MB of ext4 would take most of the room for files.
 * The same tree gives the same bytes.
 */
async function makeImage(tree: string, path: string): Promise<void> {
  const argv = ['mksquashfs', tree, path, '-comp', 'lz4', '-all-root', '-all-time', '0', '-mkfs-time', '0']
  const result = await runCommand([...argv, '-no-progress', '-quiet', '-no-xattrs', '-processors', '2'], {
    package: 'squashfs-tools',
  })
  if (result.status === 0) return
  const detail = complaint(result)
  if (/No space left/i.test(result.stderr)) {
    throw storageError(path, Object.assign(new Error(detail), { code: 'ENOSPC' }))
  }
  throw new KvitestError('make the disk of packages', detail)
}

function link(path: string, target: string): NewcEntry {
  return { type: 'symlink', path, mode: 0o777, target }
}

function commandLink(program: string): NewcEntry {
  return link(`bin/${basename(program)}`, `../${program}`)
}

/** Busybox's names give way to the packages that were asked for, not to what came along. */
function linksOf({ programs, top }: Manifest): NewcEntry[] {
  return [
    { type: 'directory', path: mountPoint, mode: 0o755 },
    ...top.map((name) => link(name, `${mountPoint}/${name}`)),
    link('lib64', 'usr/lib64'),
    link('lib/x86_64-linux-gnu', '../usr/lib/x86_64-linux-gnu'),
    ...programs.map(commandLink),
    { type: 'file', path: 'etc/kvitest/packages', mode: 0o644, data: Buffer.from(`${packagesDisk}\n`) },
  ]
}

/** Programs look for their configuration in /etc; the guest may change it. */
async function configurationOf(root: string): Promise<NewcEntry[]> {
  const found = await readdir(root, { recursive: true, withFileTypes: true })
  return await Promise.all(
    found
      .filter((one) => one.isFile() || one.isSymbolicLink())
      .map(async (one): Promise<NewcEntry> => {
        const source = join(one.parentPath, one.name)
        const path = `etc/${relative(root, source)}`
        if (one.isSymbolicLink())
          return { type: 'symlink', path, mode: 0o777, target: await readlink(source) }
        return { type: 'file', path, mode: 0o644, source }
      }),
  )
}
