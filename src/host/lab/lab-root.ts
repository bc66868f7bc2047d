import { chmod, link, mkdir, rm, symlink } from 'node:fs/promises'
import { dirname, join, normalize } from 'node:path'
import { mountPoints, type PackEntry } from '../../image/pack-entry.ts'
import { KvitestError } from '../../native/error.ts'
import type { OutputStream, ProgramEnd, ProgramRequest } from '../program/contract.ts'
import { type RunningProgram, startProgram } from '../program/root.ts'
import type { BlobStore } from './blob-store.ts'

let made = 0

/** The root of a pack in a lab, made of blobs without a copy, and the one program that runs in it. */
export class LabRoot {
  readonly #directory: string
  #running: RunningProgram | undefined

  private constructor(directory: string) {
    this.#directory = directory
  }

  /** `parent` is on the file system of the blobs; the session holds those for as long as the root is there. */
  static async make(parent: string, entries: readonly PackEntry[], blobs: BlobStore): Promise<LabRoot> {
    const root = new LabRoot(join(parent, String(++made)))
    try {
      for (const point of mountPoints) await mkdir(join(root.#directory, point), { recursive: true })
      const folders = new Set(entries.map(({ path }) => dirname(path)))
      for (const folder of folders) await mkdir(join(root.#directory, inside(folder)), { recursive: true })
      for (const entry of entries) {
        const path = join(root.#directory, inside(entry.path))
        if (entry.kind === 'link') await symlink(entry.target, path)
        else {
          const blob = blobs.path(entry.sha256)
          await chmod(blob, 0o755)
          await link(blob, path)
        }
      }
    } catch (error) {
      await root.remove()
      throw error
    }
    return root
  }

  async run(
    request: ProgramRequest,
    onOutput: (stream: OutputStream, data: Uint8Array) => void,
  ): Promise<ProgramEnd> {
    if (this.#running) {
      throw new KvitestError(`run ${request.argv[0]}`, 'the session runs a program already', {
        code: 'EBUSY',
      })
    }
    this.#running = startProgram({ root: this.#directory, place: 'lab' }, request, onOutput)
    try {
      return await this.#running.ended
    } finally {
      this.#running = undefined
    }
  }

  /** Kills what runs in it. */
  async remove(): Promise<void> {
    const running = this.#running
    running?.kill()
    await running?.ended.catch(() => {})
    await rm(this.#directory, { recursive: true, force: true })
  }
}

function inside(path: string): string {
  const normal = normalize(path)
  if (!normal.startsWith('../') && normal !== '..' && !normal.startsWith('/')) return normal
  throw new KvitestError('make the root of a pack', `${path} is outside of it`, { code: 'EINVAL' })
}
