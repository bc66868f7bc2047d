import { readFile } from 'node:fs/promises'
import { KvitestError } from '../native/error.ts'

/** MemAvailable of this machine, in bytes. */
export async function memoryAvailable(): Promise<number> {
  const text = await readFile('/proc/meminfo', 'utf8')
  return Number(/^MemAvailable:\s+(\d+) kB$/m.exec(text)?.[1] ?? 0) * 1024
}

/** Bytes of `512M`, `2G` or `1073741824`. */
export function parseSize(text: string): number {
  const match = /^(\d+)([KMG]?)$/i.exec(text)
  const unit = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }[match?.[2]?.toUpperCase() ?? '']
  if (!match || unit === undefined) {
    throw new KvitestError('read a size', `${text}: not a size`, {
      code: 'EINVAL',
      hint: 'write bytes, 512M or 2G',
    })
  }
  return Number(match[1]) * unit
}
