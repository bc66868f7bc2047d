import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { textHash } from '../image/hash.ts'

/** Names the content of a folder's files: another one whenever any of them changes. */
export function sourcesKey(folder: string): string {
  const names = readdirSync(folder).sort()
  return textHash(names.map((name) => `${name}\0${readFileSync(join(folder, name), 'utf8')}`).join('\0'))
}
