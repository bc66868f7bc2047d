/** A program that uses KVM's structures as the UAPI headers of one kernel have them: an old tool, distilled. */
import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { treeOf } from '../../abi/headers/tree.ts'
import { complaint, runCommand } from '../../image/command.ts'
import { fetchFiles, servedPackages } from '../../image/debian-files.ts'
import { compareVersions, upstreamVersion } from '../../image/debian-version.ts'
import { textHash } from '../../image/hash.ts'
import { makePack, type Pack } from '../../image/pack.ts'
import { KvitestError } from '../../native/error.ts'
import { tapResults } from '../outcome.ts'
import type { PreparedTool, Tool } from '../tool.ts'

export interface ProbeOptions {
  /** Line of the headers: `6.1`. */
  version: string
  /** Suite of Debian that serves them, such as `trixie`; default this machine's own. */
  suite?: string
  /** C source, default kvitest's own; prints TAP. */
  source?: string
  /** Milliseconds; default 60 s. */
  deadline?: number
}

const ownSource = fileURLToPath(new URL('../../../fixtures/probes/kvm.c', import.meta.url))

interface Headers {
  package: string
  version: string
}

/** Debian's newest linux-libc-dev of a line. */
async function headersPackage(line: string, suite: string | undefined): Promise<Headers> {
  const served = await servedPackages(/^linux-libc-dev$/, suite)
  const newest = served
    .filter((one) => upstreamVersion(one.version).startsWith(`${line}.`))
    .toSorted((a, b) => compareVersions(a.version, b.version))
    .at(-1)
  if (newest) return { package: newest.package, version: newest.version }
  const known = served.map((one) => one.version).join(', ') || 'none'
  throw new KvitestError('find the UAPI headers', `Debian serves no linux-libc-dev of ${line} here`, {
    code: 'ENOENT',
    hint: `known: ${known}; another suite of Debian may have it`,
  })
}

/** A probe compiled against the headers of one kernel line; each TAP point that it prints is a point. */
export function abiProbe({ version, suite, source = ownSource, deadline = 60_000 }: ProbeOptions): Tool {
  const name = `probe-${version}`
  const prepare = async (): Promise<PreparedTool> => {
    const wanted = await headersPackage(version, suite)
    const key = `${wanted.package} ${wanted.version} ${textHash(await readFile(source, 'utf8'))}`
    const pack = await makePack(name, key, (root) => compile(source, wanted, suite, root))
    return {
      pack,
      hash: pack.hash,
      version: upstreamVersion(wanted.version),
      all: async ({ programs }) => tapResults(await programs.run({ argv: ['/probe'], deadline }), deadline),
    }
  }
  return { name, takesGuest: false, need: { cpus: 1, memory: 64 << 20 }, prepare }
}

async function compile(
  source: string,
  wanted: Headers,
  suite: string | undefined,
  root: string,
): Promise<Pack['origin']> {
  const path = await fetchFiles(`${wanted.package}_${wanted.version}`, {
    packages: [wanted],
    members: [
      './usr/include/linux',
      './usr/include/asm-generic',
      './usr/include/x86_64-linux-gnu/asm',
      './usr/lib/linux/uapi/x86',
    ],
    suite,
  })
  const tree = await treeOf(wanted.version, path)
  await mkdir(root, { recursive: true })
  const headers = tree.include.x86.flatMap((folder) => ['-isystem', folder])
  const argv = ['gcc', '-O1', '-Wall', '-Werror', '-static', ...headers, '-o', join(root, 'probe'), source]
  const result = await runCommand(argv, { package: 'gcc' })
  if (result.status !== 0) {
    const first = result.stderr.split('\n').find((line) => /\berror:/.test(line))
    throw new KvitestError('build the probe', `against ${wanted.version}: ${first ?? complaint(result)}`, {
      code: 'ENOEXEC',
      infra: false,
    })
  }
  return [`${wanted.package} ${wanted.version}`]
}
