/** The files of a program of ours that drives the VMM by itself, for a pack: Node, its sources, the addon. */
import { chmod, copyFile, mkdir, readdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { programEntries } from '../host/lab/image.ts'
import { builtFile } from '../image/initramfs.ts'
import type { NewcEntry } from '../image/newc.ts'

/** `source`: the program, as `src/matrix/release/main.ts`; in the pack it is `/kvitest/src/matrix/release/main.js`. */
export async function vmmEntries(source: string): Promise<NewcEntry[]> {
  // The host is measured before a guest starts.
  const bare = await builtFile('guests')
  const measuring = (await readdir(bare)).filter((name) => name.startsWith('calibrate'))
  return [
    ...(await programEntries(source)),
    ...measuring.map((name): NewcEntry => {
      const path = `kvitest/build/Release/guests/${name}`
      return { type: 'file', path, mode: 0o644, source: join(bare, name) }
    }),
  ]
}

/** Files among them, into a folder. */
export async function putEntries(root: string, entries: readonly NewcEntry[]): Promise<void> {
  for (const entry of entries) {
    if (entry.type !== 'file') continue
    const target = join(root, entry.path)
    await mkdir(dirname(target), { recursive: true })
    if ('source' in entry) await copyFile(entry.source, target)
    else await writeFile(target, entry.data)
    await chmod(target, entry.mode | 0o600)
  }
}
