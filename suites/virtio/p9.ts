/** What p9*.long.test.ts share: a directory of the host, and the guest's side of it. */
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'

/** A directory that goes with the file's tests, with these files in it. */
export function makeShare(files: Record<string, Uint8Array | string>): string {
  const folder = mkdtempSync(join(tmpdir(), 'kvitest-p9-'))
  afterAll(() => rmSync(folder, { recursive: true }))
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(join(folder, path, '..'), { recursive: true })
    writeFileSync(join(folder, path), content)
  }
  return folder
}

/** Bytes that differ from page to page, and not by a power of two. */
export function pattern(length: number): Buffer {
  const bytes = Buffer.alloc(length)
  for (let at = 0; at < length; at++) bytes[at] = (at * 31 + (at >> 8)) & 0xff
  return bytes
}

export const sha256 = (data: Uint8Array | string): string => createHash('sha256').update(data).digest('hex')

/** Shell that mounts the share and goes there. */
export const mount = (options = ''): string =>
  `mkdir -p /mnt && mount -t 9p -o trans=virtio,version=9p2000.L${options} share /mnt && cd /mnt`
