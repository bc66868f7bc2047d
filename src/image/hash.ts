import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { KvitestError } from '../native/error.ts'

const known = new Map<string, Promise<string>>()

async function readAndHash(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

/** sha256 of a file, hexadecimal; remembered in this process while size, inode and times stay as they are. */
export async function fileHash(path: string): Promise<string> {
  let key: string
  try {
    const s = await stat(path, { bigint: true })
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
  const hash = readAndHash(path)
  known.set(key, hash)
  hash.catch(() => known.delete(key))
  return hash
}

export function textHash(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
