/** What is in a directory that a guest gets: files by content, so that the same content is the same directory. */
import { lstat, readdir, readlink } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { KvitestError } from '../native/error.ts'
import { fileHash } from './hash.ts'

/** `path` is relative; parents stand before what is in them. */
export type DirectoryEntry =
  | { kind: 'directory'; path: string; mode: number }
  | { kind: 'file'; path: string; mode: number; sha256: string }
  | { kind: 'link'; path: string; target: string }

const maxEntries = 4096
const maxBytes = 64 * 1024 * 1024

/** Rejects with ENOENT or ENOTDIR for what is no directory, EFBIG for one too large for a lab, EINVAL for a device in it. */
export async function listDirectory(root: string): Promise<DirectoryEntry[]> {
  const refuse = (detail: string, code: string, hint?: string) =>
    new KvitestError('give a guest a directory', `${root}: ${detail}`, { code, hint, infra: false })
  const found = await readdir(root, { recursive: true, withFileTypes: true }).catch(
    (error: NodeJS.ErrnoException) => {
      throw refuse(error.code === 'ENOENT' ? 'no such directory' : String(error.code), error.code ?? 'EIO')
    },
  )
  if (found.length > maxEntries) throw refuse(`more than ${maxEntries} files`, 'EFBIG', 'give a smaller one')
  const entries: DirectoryEntry[] = []
  let bytes = 0
  for (const one of found) {
    const place = join(one.parentPath, one.name)
    const path = relative(root, place)
    if (one.isSymbolicLink()) {
      entries.push({ kind: 'link', path, target: await readlink(place) })
      continue
    }
    const { mode, size } = await lstat(place)
    if (one.isDirectory()) entries.push({ kind: 'directory', path, mode: mode & 0o777 })
    else if (one.isFile()) {
      bytes += size
      if (bytes > maxBytes) throw refuse('more than 64 MiB', 'EFBIG', 'give a smaller one')
      entries.push({ kind: 'file', path, mode: mode & 0o777, sha256: await fileHash(place) })
    } else throw refuse(`${path} is neither file, directory nor link`, 'EINVAL')
  }
  return entries.sort((a, b) => (a.path < b.path ? -1 : 1))
}
