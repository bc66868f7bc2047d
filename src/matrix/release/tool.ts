/** kvitest's own VMM of a release that was kept: its addon, its agent and its Node code, out of its tarball. */
import { access, mkdir, readFile, realpath } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { cached, prune } from '../../image/cache.ts'
import { complaint, runCommand } from '../../image/command.ts'
import { fileHash } from '../../image/hash.ts'
import { makePack } from '../../image/pack.ts'
import { resolveKernel } from '../../image/resolve.ts'
import { KvitestError } from '../../native/error.ts'
import { guestResults } from '../outcome.ts'
import type { PreparedTool, Tool } from '../tool.ts'
import { guestFiles, guestFolder, type PackedGuest, program, RELEASE_FORMAT } from './place.ts'

export interface ReleaseOptions {
  name: string | undefined
  /** Path of the tarball. */
  release: string
  /** Milliseconds of boot and of script. */
  deadline: number
}

/** Of `kvitest-0.1.0.tgz`, as `npm pack` names it. */
function versionOf(path: string): string {
  return /kvitest-(\d[^/]*)\.tgz$/.exec(path)?.[1] ?? 'release'
}

export function packedVmm({ name: given, release, deadline }: ReleaseOptions): Tool {
  const name = given ?? `vmm-${versionOf(release)}`
  const prepare = async (guest: string | undefined): Promise<PreparedTool> => {
    const { path, hash, version } = await unpackRelease(name, release)
    const kernel = await resolveKernel(guest)
    const pack = await makePack(name, `1 ${hash} ${kernel.name} ${kernel.hash}`, async (root) => {
      const argv = [process.execPath, '--disable-warning=ExperimentalWarning', 'src/matrix/release/pack.ts']
      const made = await runCommand([...argv, root, kernel.name], { cwd: path })
      if (made.status !== 0) throw new KvitestError(`pack ${name}`, complaint(made), { code: 'ENOEXEC' })
      const about: PackedGuest = JSON.parse(await readFile(join(root, guestFolder, guestFiles.about), 'utf8'))
      if (about.format !== RELEASE_FORMAT) {
        const detail = `its pack has format ${about.format}, this kvitest runs ${RELEASE_FORMAT}`
        throw new KvitestError(`pack ${name}`, detail, { code: 'EPROTO' })
      }
      return [`kvitest ${version} sha256 ${hash}`, `${kernel.name} ${kernel.release}`]
    })
    const request = {
      argv: [...program, String(deadline)],
      environment: { XDG_CACHE_HOME: '/tmp', UV_THREADPOOL_SIZE: '16' },
      deadline: 2 * deadline + 30_000,
    }
    return {
      pack,
      hash,
      version,
      all: async ({ programs }) => guestResults(await programs.run(request), request.deadline),
    }
  }
  // Node, and the guest.
  return { name, takesGuest: true, need: { cpus: 1, memory: 512 << 20 }, prepare }
}

/** The release with the packages that it needs, in the cache. */
async function unpackRelease(
  name: string,
  given: string,
): Promise<{ path: string; hash: string; version: string }> {
  const tarball = await realpath(resolve(given)).catch((error: NodeJS.ErrnoException) => {
    throw new KvitestError(
      `find ${name}`,
      `${given}: ${error.code === 'ENOENT' ? 'no such file' : error.code}`,
      {
        code: error.code,
        hint: 'give the path of the tarball that npm pack made of a release',
      },
    )
  })
  const hash = await fileHash(tarball)
  const path = await cached(['releases', hash], async (target) => {
    await mkdir(target)
    const unpacked = await runCommand(['tar', '-xzf', tarball, '-C', target, '--strip-components=1'])
    const refuse = (detail: string, hint: string) =>
      new KvitestError(`unpack ${name}`, `${given}: ${detail}`, { code: 'ENOEXEC', hint })
    if (unpacked.status !== 0) throw refuse(complaint(unpacked), 'give a tarball that npm pack made')
    for (const needed of [
      'src/matrix/release/pack.ts',
      'build/Release/kvitest.node',
      'build/Release/agent',
    ]) {
      await access(join(target, needed)).catch(() => {
        throw refuse(`no ${needed} in it`, 'pack a release after npm run setup has built it')
      })
    }
    const install = ['npm', 'install', '--omit=dev', '--ignore-scripts', '--no-audit', '--no-fund']
    const installed = await runCommand(install, { cwd: target, package: 'npm' })
    if (installed.status !== 0)
      throw refuse(complaint(installed), 'its packages come from the npm registry once')
  })
  await prune('releases', 8)
  const { version } = JSON.parse(await readFile(join(path, 'package.json'), 'utf8')) as { version: string }
  return { path, hash, version }
}
