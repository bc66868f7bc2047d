import { KvitestError } from '../native/error.ts'
import { bytesOf } from '../native/size.ts'

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

/** `256 MiB`, `1.5 GiB` */
export function gibibytes(bytes: number): string {
  if (bytes < 2 ** 30) return `${Math.floor(bytes / 2 ** 20)} MiB`
  return `${Math.floor((bytes / 2 ** 30) * 10) / 10} GiB`
}
