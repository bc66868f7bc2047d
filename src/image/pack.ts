/** A tool with all that it needs, as one directory tree that nothing of this machine shows through. */
import { chmod, lstat, mkdir, readdir, readFile, readlink, writeFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { KvitestError } from '../native/error.ts'
import { cached, prune } from './cache.ts'
import { fileHash, textHash } from './hash.ts'
import { mountPoints, type PackEntry } from './pack-entry.ts'

export interface Pack {
  /** As its tool is named: `selftests-6.12`. */
  name: string
  /** sha256 over all members: the same hash, the same tool. */
  hash: string
  /** Directory of this machine that holds it. Nobody writes there. */
  root: string
  /** Where it comes from: `linux-source-6.12 6.12.117-1~deb12u1`. */
  origin: string[]
  entries: PackEntry[]
}

type Manifest = Omit<Pack, 'root' | 'name'>

/**
 * The pack that `key` names, in the cache; `fill` puts its files into an empty directory and says where they come
 * from. Rejects with ENODATA when it puts none there.
 */
export async function makePack(
  name: string,
  key: string,
  fill: (root: string) => Promise<string[]>,
): Promise<Pack> {
  const path = await cached(['packs', `${name}-${textHash(key).slice(0, 32)}`], async (target) => {
    const root = join(target, 'root')
    await mkdir(root, { recursive: true })
    const origin = await fill(root)
    const entries = await membersOf(root)
    if (entries.length === 0) throw new KvitestError('pack a tool', `${name}: no files`, { code: 'ENODATA' })
    for (const point of mountPoints) await mkdir(join(root, point), { recursive: true })
    const hash = textHash(JSON.stringify(entries))
    await writeFile(
      join(target, 'manifest.json'),
      JSON.stringify({ hash, origin, entries } satisfies Manifest),
    )
  })
  await prune('packs', 24)
  const manifest = JSON.parse(await readFile(join(path, 'manifest.json'), 'utf8')) as Manifest
  return { name, root: join(path, 'root'), ...manifest }
}

/** Files and links below a directory, by path; anything else in it is refused. */
async function membersOf(root: string): Promise<PackEntry[]> {
  const found = await readdir(root, { recursive: true, withFileTypes: true })
  const entries: PackEntry[] = []
  for (const one of found.filter((entry) => !entry.isDirectory())) {
    const place = join(one.parentPath, one.name)
    const path = relative(root, place)
    if (one.isSymbolicLink()) entries.push({ kind: 'link', path, target: await readlink(place) })
    else if (one.isFile()) {
      // In a lab all users of one content share one file.
      await chmod(place, 0o755)
      const { size } = await lstat(place)
      entries.push({ kind: 'file', path, sha256: await fileHash(place), size })
    } else throw new KvitestError('pack a tool', `${path} is no file and no link`, { code: 'EINVAL' })
  }
  return entries.sort((a, b) => (a.path < b.path ? -1 : 1))
}
