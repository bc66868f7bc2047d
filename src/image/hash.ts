import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { KvitestError } from '../native/error.ts'
import { cachePath, prune } from './cache.ts'

const known = new Map<string, Promise<string>>()

async function readAndHash(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

/** From here on reading the hash is quicker than the file. */
const large = 4 << 20

/** The hash of a large file, remembered in the cache: Node's own binary alone takes 0.2 s of every start. */
async function rememberedHash(path: string, key: string): Promise<string> {
  const memory = cachePath('hashes', textHash(key))
  const before = await readFile(memory, 'utf8').catch(() => '')
  if (/^[0-9a-f]{64}$/.test(before)) return before
  const hash = await readAndHash(path)
  // A cache that cannot be written costs the reading again, nothing else.
  await remember(memory, hash).catch(() => {})
  return hash
}

async function remember(memory: string, hash: string): Promise<void> {
  await mkdir(cachePath('hashes'), { recursive: true })
  const scratch = `${memory}.${process.pid}`
  await writeFile(scratch, hash)
  await rename(scratch, memory)
  await prune('hashes', 256)
}

/** sha256 of a file, hexadecimal; remembered while size, inode and times stay as they are. */
export async function fileHash(path: string): Promise<string> {
  let key: string
  let size: bigint
  try {
    const s = await stat(path, { bigint: true })
    size = s.size
    key = `${s.dev}:${s.ino}:${s.size}:${s.mtimeNs}:${s.ctimeNs}`
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    throw new KvitestError('read', `${path}: ${code === 'ENOENT' ? 'no such file' : String(code)}`, {
      code,
      cause: error,
    })
  }
  const before = known.get(key)
  if (before) return before
  const hash = size >= large ? rememberedHash(path, key) : readAndHash(path)
  known.set(key, hash)
  hash.catch(() => known.delete(key))
  return hash
}

export function textHash(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
