import { createReadStream } from 'node:fs'
import { type FileHandle, open, stat } from 'node:fs/promises'

/** One member of an archive. Paths are relative, without a leading slash. */
export type NewcEntry = { path: string; mode: number } & (
  | { type: 'directory' }
  | { type: 'symlink'; target: string }
  | { type: 'file'; data: Uint8Array }
  | { type: 'file'; source: string }
  | { type: 'character'; major: number; minor: number }
)

const typeBits = { directory: 0o040000, symlink: 0o120000, file: 0o100000, character: 0o020000 }

function header(ino: number, mode: number, size: number, nameSize: number, major = 0, minor = 0): string {
  // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
  const fields = [ino, mode, 0, 0, 1, 0, size, 0, 0, major, minor, nameSize, 0]
  return `070701${fields.map((field) => field.toString(16).padStart(8, '0').toUpperCase()).join('')}`
}

function padded(length: number): Buffer {
  return Buffer.alloc((4 - (length % 4)) % 4)
}

function nameRecord(head: string, path: string): Buffer {
  const bytes = Buffer.from(`${head}${path}\0`, 'utf8')
  return Buffer.concat([bytes, padded(bytes.length)])
}

/** Adds the directories that entries live in but nobody named, and sorts: same input, same bytes. */
export function withParents(entries: readonly NewcEntry[]): NewcEntry[] {
  const byPath = new Map<string, NewcEntry>()
  for (const entry of entries) {
    if (entry.path === '' || entry.path.startsWith('/')) throw new RangeError(`archive path ${entry.path}`)
    const parts = entry.path.split('/')
    for (let n = 1; n < parts.length; n++) {
      const path = parts.slice(0, n).join('/')
      if (!byPath.has(path)) byPath.set(path, { path, mode: 0o755, type: 'directory' })
    }
    byPath.set(entry.path, entry)
  }
  // By code unit, so that a directory comes before what is in it in every locale.
  return [...byPath.values()].sort((a, b) => (a.path < b.path ? -1 : 1))
}

async function writeSource(file: FileHandle, source: string, expected: number): Promise<void> {
  let written = 0
  for await (const chunk of createReadStream(source, { highWaterMark: 4 << 20 })) {
    await file.writeFile(chunk as Buffer)
    written += (chunk as Buffer).length
  }
  if (written !== expected) throw new Error(`${source} changed while it was archived`)
}

/**
 * Writes an uncompressed cpio archive in the kernel's "newc" format (Documentation/driver-api/early-userspace/
 * buffer-format.rst). Owner root, times zero, inodes by position: deterministic.
 */
export async function writeNewc(path: string, entries: readonly NewcEntry[]): Promise<void> {
  const file = await open(path, 'w', 0o644)
  try {
    let ino = 0
    for (const entry of withParents(entries)) {
      ino++
      const mode = typeBits[entry.type] | entry.mode
      const nameSize = Buffer.byteLength(entry.path) + 1
      if (entry.type === 'file' && 'source' in entry) {
        const { size } = await stat(entry.source)
        await file.writeFile(nameRecord(header(ino, mode, size, nameSize), entry.path))
        await writeSource(file, entry.source, size)
        await file.writeFile(padded(size))
        continue
      }
      const data =
        entry.type === 'symlink'
          ? Buffer.from(entry.target)
          : entry.type === 'file'
            ? entry.data
            : Buffer.alloc(0)
      const device = entry.type === 'character' ? ([entry.major, entry.minor] as const) : ([0, 0] as const)
      await file.writeFile(
        Buffer.concat([
          nameRecord(header(ino, mode, data.length, nameSize, ...device), entry.path),
          data,
          padded(data.length),
        ]),
      )
    }
    const end = 'TRAILER!!!'
    await file.writeFile(nameRecord(header(0, 0, 0, end.length + 1), end))
  } finally {
    await file.close()
  }
}
