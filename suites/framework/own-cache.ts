/** A cache directory without saved labs; kernels and images are those of this machine. */
import { mkdir, mkdtemp, readdir, rm, symlink } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'

export interface OwnCache extends AsyncDisposable {
  /** For a process that is to use it. */
  env: NodeJS.ProcessEnv
  directory: string
  /** Names of the labs saved there. */
  savedLabs(): Promise<string[]>
}

export async function ownCache(): Promise<OwnCache> {
  const place = await mkdtemp(join(tmpdir(), 'kvitest-own-cache-'))
  const shared = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'kvitest')
  const directory = join(place, 'kvitest')
  await mkdir(directory)
  for (const folder of await readdir(shared)) {
    if (['labs', 'users', 'tmp', 'locks'].includes(folder)) continue
    await symlink(join(shared, folder), join(directory, folder))
  }
  // The scratch directory of what is made must lie beside its final place.
  await mkdir(join(shared, 'tmp'), { recursive: true })
  await symlink(join(shared, 'tmp'), join(directory, 'tmp'))
  return {
    env: { XDG_CACHE_HOME: place, KVITEST_LAB_MEMORY: '1G' },
    directory,
    savedLabs: () => readdir(join(directory, 'labs')).catch(() => []),
    [Symbol.asyncDispose]: () => rm(place, { recursive: true, force: true }),
  }
}
