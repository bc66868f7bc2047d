import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { HostCheckpoint, HostMachine, MachineHost } from '../host/machine-host.ts'
import { KvitestError } from '../native/error.ts'
import { sealCheckpoint, unsealCheckpoint } from './checkpoint-file.ts'
import type { GuestSidecar } from './sidecar.ts'
import type { Guest, GuestCheckpoint, GuestForkOptions } from './types.ts'

/** Makes a guest of a checkpoint and what its owner must know. */
export type ForkGuest = (
  checkpoint: HostCheckpoint,
  sidecar: GuestSidecar,
  options: GuestForkOptions,
) => Promise<Guest>

/** A saved Linux guest with what the owner of a fork must know. */
export class LinuxCheckpoint implements GuestCheckpoint {
  readonly checkpoint: HostCheckpoint
  readonly sidecar: GuestSidecar
  readonly #fork: ForkGuest
  #released: Promise<void> | undefined

  constructor(checkpoint: HostCheckpoint, sidecar: GuestSidecar, fork: ForkGuest) {
    this.checkpoint = checkpoint
    this.sidecar = sidecar
    this.#fork = fork
  }

  get cpus(): number {
    return this.checkpoint.info.spec.cpus
  }

  get memory(): number {
    return this.checkpoint.info.spec.memory
  }

  get bytes(): number {
    return this.checkpoint.info.bytes
  }

  async fork(options: GuestForkOptions = {}): Promise<Guest> {
    this.#check('fork a guest')
    return await this.#fork(this.checkpoint, this.sidecar, options)
  }

  async saveCore(path: string): Promise<void> {
    this.#check('save a core')
    await this.checkpoint.saveCore(path)
  }

  async save(path: string): Promise<void> {
    this.#check('save a checkpoint')
    // Beside its place, so that it appears there whole or not at all.
    const partial = `${path}.${randomBytes(6).toString('hex')}.partial`
    try {
      await this.checkpoint.save(partial)
      await sealCheckpoint(partial, this.sidecar, path)
    } catch (error) {
      await rm(partial, { force: true })
      const { code } = error as NodeJS.ErrnoException
      if (error instanceof KvitestError || !code) throw error
      throw new KvitestError('save a checkpoint', `${path}: ${code}`, { code, infra: false, cause: error })
    }
  }

  release(): Promise<void> {
    this.#released ??= this.checkpoint.release()
    return this.#released
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release()
  }

  #check(operation: string): void {
    if (!this.#released) return
    throw new KvitestError(operation, 'its checkpoint was released', { code: 'EINVAL', infra: false })
  }
}

/** Checks a file that GuestCheckpoint.save() wrote, and loads it into the host. */
export async function restoreCheckpoint(
  machines: MachineHost,
  path: string,
  fork: ForkGuest,
): Promise<LinuxCheckpoint> {
  const folder = await mkdtemp(join(tmpdir(), 'kvitest-restore-'))
  try {
    const native = join(folder, 'checkpoint')
    const sidecar = await unsealCheckpoint(path, native)
    return new LinuxCheckpoint(await machines.loadCheckpoint(native), sidecar, fork)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** Guest.saveCore(): from what was kept of a guest's end, else from the machine as it is now. */
export async function saveCore(
  kept: HostCheckpoint | undefined,
  machine: () => Pick<HostMachine, 'checkpoint'>,
  path: string,
): Promise<void> {
  const checkpoint = kept ?? (await machine().checkpoint())
  try {
    await checkpoint.saveCore(path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (error instanceof KvitestError || !code) throw error
    throw new KvitestError('save a core', `${path}: ${code}`, { code, infra: false, cause: error })
  } finally {
    await checkpoint.release()
  }
}
