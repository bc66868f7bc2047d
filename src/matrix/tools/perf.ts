/** linux-perf of Debian: what it counts, records and reports of a guest whose exits are known beforehand. */
import { copyFile, mkdir, readFile, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { complaint, runCommand } from '../../image/command.ts'
import { copyPrograms, fetchPackageTree, type PackageTree } from '../../image/debian-closure.ts'
import { upstreamVersion } from '../../image/debian-version.ts'
import { textHash } from '../../image/hash.ts'
import { busyboxApplets, staticBusybox } from '../../image/initramfs.ts'
import { makePack } from '../../image/pack.ts'
import { KvitestError } from '../../native/error.ts'
import { tapResults } from '../outcome.ts'
import type { PreparedTool, Tool } from '../tool.ts'

/** A perf that Debian serves. */
export interface PerfVersion {
  /** Line of its kernel: `6.1`. */
  version: string
  /** Suite of Debian that serves it (`trixie`); default this machine's own. */
  suite?: string
}

export interface PerfOptions extends PerfVersion {
  /** Others that read what this one recorded. */
  readBy?: PerfVersion[]
  /** Milliseconds; default 120 s. */
  deadline?: number
}

const fixture = (name: string) => fileURLToPath(new URL(`../../../fixtures/probes/${name}`, import.meta.url))

function fetchPerf({ version, suite }: PerfVersion): Promise<PackageTree> {
  return fetchPackageTree('linux-perf', (one) => upstreamVersion(one).startsWith(`${version}.`), suite)
}

/** `perf stat`, `record`, `script` and `kvm stat` on the tracepoints of KVM, each of them a point. */
export function linuxPerf({ version, suite, readBy = [], deadline = 120_000 }: PerfOptions): Tool {
  const name = `perf-${version}`
  const prepare = async (): Promise<PreparedTool> => {
    const own = await fetchPerf({ version, ...(suite === undefined ? {} : { suite }) })
    const others = await Promise.all(readBy.map(fetchPerf))
    const sources = await Promise.all(['perf.sh', 'exits.c'].map((file) => readFile(fixture(file), 'utf8')))
    const key = ['1', own.origin, ...others.map(({ origin }) => origin), ...sources.map(textHash)].join(' ')
    const pack = await makePack(name, key, async (root) => {
      await copyPrograms(own.path, ['usr/bin/perf'], root)
      for (const [at, { path }] of others.entries()) {
        const place = join(root, 'other', readBy[at]!.version)
        await mkdir(place, { recursive: true })
        await copyPrograms(path, ['usr/bin/perf'], place)
      }
      await copyFile(await staticBusybox(), join(root, 'usr/bin/busybox'))
      for (const applet of await busyboxApplets()) await symlink('busybox', join(root, 'usr/bin', applet))
      await copyFile(fixture('perf.sh'), join(root, 'perf.sh'))
      await compile(fixture('exits.c'), join(root, 'exits'))
      return [own, ...others].map(({ origin }) => origin)
    })
    const environment = {
      VERSION: upstreamVersion(own.version),
      OTHERS: readBy.map((one) => one.version).join(' '),
      PERF_CONFIG: '/dev/null',
    }
    const request = { argv: ['/bin/sh', '/perf.sh'], environment, deadline }
    return {
      pack,
      hash: pack.hash,
      version: upstreamVersion(own.version),
      all: async ({ programs }) => tapResults(await programs.run(request), deadline),
    }
  }
  return { name, takesGuest: false, need: { cpus: 1, memory: 256 << 20 }, prepare }
}

async function compile(source: string, target: string): Promise<void> {
  const argv = ['gcc', '-O1', '-Wall', '-Werror', '-static', '-o', target, source]
  const result = await runCommand(argv, { package: 'gcc' })
  if (result.status === 0) return
  throw new KvitestError('build the guest of perf', complaint(result), { code: 'ENOEXEC' })
}
