import { chmod, copyFile, mkdir, rm, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import type { DirectoryEntry } from '../../image/directory.ts'
import type { BlobStore } from './blob-store.ts'

const parent = '/run/directories'
const shared = new Map<string, Promise<LabDirectory>>()
let made = 0

/** A directory of the lab that a guest works in, a copy of one of the machine that the guest was asked for on. */
export class LabDirectory {
  readonly path: string

  private constructor(path: string) {
    this.path = path
  }

  /** `own`: whose it is, to be removed by them; without, it is shared by all who want that content. */
  static take(
    entries: readonly DirectoryEntry[],
    blobs: BlobStore,
    own: LabDirectory[] | undefined,
  ): Promise<LabDirectory> {
    const make = () => LabDirectory.#make(entries, blobs)
    if (own) {
      return make().then((directory) => {
        own.push(directory)
        return directory
      })
    }
    const key = JSON.stringify(entries)
    const found = shared.get(key) ?? make()
    shared.set(key, found)
    found.catch(() => shared.delete(key))
    return found
  }

  static async #make(entries: readonly DirectoryEntry[], blobs: BlobStore): Promise<LabDirectory> {
    const directory = new LabDirectory(join(parent, String(++made)))
    await mkdir(directory.path, { recursive: true })
    try {
      // Links last: nothing is ever made through one.
      for (const entry of entries.toSorted((a, b) => Number(a.kind === 'link') - Number(b.kind === 'link'))) {
        const place = join(directory.path, entry.path)
        if (entry.kind === 'link') await symlink(entry.target, place)
        else if (entry.kind === 'directory') await mkdir(place, { mode: entry.mode | 0o700 })
        else {
          await copyFile(blobs.path(entry.sha256), place)
          await chmod(place, entry.mode)
        }
      }
    } catch (error) {
      await directory.remove()
      throw error
    }
    return directory
  }

  async remove(): Promise<void> {
    await rm(this.path, { recursive: true, force: true })
  }
}
