import { readFile } from 'node:fs/promises'
import { KvitestError } from '../native/error.ts'
import { bytesOf } from '../native/size.ts'

/** MemAvailable of this machine, in bytes. */
export async function memoryAvailable(): Promise<number> {
  const text = await readFile('/proc/meminfo', 'utf8')
  return Number(/^MemAvailable:\s+(\d+) kB$/m.exec(text)?.[1] ?? 0) * 1024
}

/** Bytes of `512M`, `2G` or `1073741824`; throws a KvitestError for what is no size. */
export function parseSize(text: string): number {
  const bytes = bytesOf(text)
  if (bytes === undefined) {
    throw new KvitestError('read a size', `${text}: not a size`, {
      code: 'EINVAL',
      hint: 'write bytes, 512M or 2G',
    })
  }
  return bytes
}
