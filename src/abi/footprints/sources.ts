/** The footprint of a program by its sources: what they name of KVM's API. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { catalogue } from '../catalogue/catalogue.ts'
import type { Footprint } from './footprints.ts'

/** Names that the C and C++ files below a directory hold, outside comments; without tests and what `isLeftOut` names. */
export async function footprintOfSources(
  root: string,
  tool: Pick<Footprint, 'tool' | 'version'>,
  isLeftOut: (path: string) => boolean = () => false,
): Promise<Footprint> {
  const known = new Set(
    [...catalogue.ioctls, ...catalogue.capabilities, ...catalogue.exitReasons].map((one) => one.name),
  )
  const uses = new Set<string>()
  const files = (await readdir(root, { recursive: true })).filter(
    (path) => /\.(cc|h|c)$/.test(path) && !/_test\.cc$/.test(path) && !isLeftOut(path),
  )
  for (const path of files) {
    const text = (await readFile(join(root, path), 'utf8')).replace(/\/\/.*$|\/\*[\s\S]*?\*\//gm, '')
    for (const [name] of text.matchAll(/\bKVM_[A-Z0-9_]+\b/g)) if (known.has(name)) uses.add(name)
  }
  return { ...tool, from: 'sources', uses: [...uses].sort() }
}
