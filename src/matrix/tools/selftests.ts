/** KVM's own selftests (tools/testing/selftests/kvm) of a kernel that Debian serves, each binary a point. */
import { chmod, copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { complaint, runCommand } from '../../image/command.ts'
import { fetchFiles, servedPackages } from '../../image/debian-files.ts'
import { compareVersions, upstreamVersion } from '../../image/debian-version.ts'
import { makePack } from '../../image/pack.ts'
import { KvitestError } from '../../native/error.ts'
import { selftestResult } from '../outcome.ts'
import type { PointResult, PreparedTool, Tool, ToolPlace } from '../tool.ts'

export interface SelftestsOptions {
  /** Line of the kernel: `6.12`. */
  version: string
  /** Binaries, such as `x86_64/state_test`; default all that the source has. */
  only?: string[]
  /** Arguments of a binary whose own choice is too much for a small host. */
  arguments?: Record<string, string[]>
  /** Binaries that are not run, and why: skips, to be declared as every other. */
  leaveOut?: Record<string, string>
  /** Milliseconds of one binary; default 120 s. */
  deadline?: number
}

/** What `make headers` and the selftests read of a kernel tree. */
const parts = [
  'tools/testing/selftests/*.mk',
  'tools/testing/selftests/*.h',
  'tools/testing/selftests/kvm',
  'tools/testing/selftests/rseq',
  ...['include', 'arch/x86', 'scripts', 'build', 'lib'].map((name) => `tools/${name}`),
  ...['scripts', 'include', 'arch/x86', 'Makefile', 'Kbuild'],
]

/** In a pack: names of the tests that did not build, with the first error of each. */
const notBuilt = '.kvitest/not-built'

/** Debian's newest source of a line. */
async function sourcePackage(version: string): Promise<{ package: string; version: string }> {
  const name = `linux-source-${version}`
  const served = await servedPackages(new RegExp(`^${name.replaceAll('.', '\\.')}$`))
  const newest = served.toSorted((a, b) => compareVersions(a.version, b.version)).at(-1)
  if (newest) return { package: newest.package, version: newest.version }
  throw new KvitestError('find the KVM selftests', `Debian serves no ${name} here`, {
    code: 'ENOENT',
    hint: 'name a line such as 6.1 or 6.12 that apt-cache search linux-source knows',
  })
}

async function must(argv: string[], cwd: string, what: string): Promise<void> {
  const result = await runCommand(argv, { cwd, package: argv[0]! })
  if (result.status !== 0) throw new KvitestError(what, complaint(result), { code: 'ENOEXEC' })
}

/** Builds all selftests of the source into `root`; one that does not build is listed there. */
async function build(source: { package: string; version: string }, root: string): Promise<string[]> {
  const name = source.package
  const files = await fetchFiles(`${name}_${source.version}`, {
    packages: [source],
    members: [`./usr/src/${name}.tar.xz`],
  })
  const scratch = `${root}.build`
  const out = join(scratch, 'out')
  await mkdir(out, { recursive: true })
  const archive = join(files, `usr/src/${name}.tar.xz`)
  const members = parts.map((part) => `${name}/${part}`)
  await must(['tar', '-xf', archive, '--wildcards', ...members], scratch, `unpack ${name}`)
  const tree = join(scratch, name)
  const what = `build the KVM selftests of ${name}`
  await must(['make', '-s', 'headers'], tree, what)
  const kvm = join(tree, 'tools/testing/selftests/kvm')
  // Static: nothing of this machine's libraries has to be packed. -k: one that does not build stops no other.
  const make = ['make', '-s', '-k', `-j${availableParallelism()}`, '-C', kvm, 'ARCH=x86_64']
  const result = await runCommand([...make, 'LDFLAGS=-static -pthread', `OUTPUT=${out}`], { package: 'make' })
  const broken = [...result.stderr.matchAll(/^make.*\[[^\]]*?out\/(\S+)\] Error/gm)].map((match) => match[1]!)
  const built = (await readdir(out, { recursive: true, withFileTypes: true })).filter((entry) =>
    entry.isFile(),
  )
  let count = 0
  for (const entry of built) {
    const place = join(entry.parentPath, entry.name)
    const test = place.slice(out.length + 1)
    // Objects, dependency files and libraries have an extension, or are of lib/.
    if (entry.name.includes('.') || test.startsWith('lib/')) continue
    const target = join(root, 'kvm', test)
    await mkdir(dirname(target), { recursive: true })
    await copyFile(place, target)
    await chmod(target, 0o755)
    await must(['strip', target], scratch, what)
    count++
  }
  if (count === 0) throw new KvitestError(what, complaint(result), { code: 'ENOEXEC' })
  await mkdir(join(root, dirname(notBuilt)), { recursive: true })
  // What make says of a target comes after what the compiler said of it.
  const why = (test: string) => {
    const before = result.stderr.slice(0, result.stderr.indexOf(`out/${test}] Error`))
    const mine = before.slice(before.lastIndexOf('] Error', before.length - 1) + 1)
    const error = mine.split('\n').find((line) => /error:|undefined reference/.test(line))
    return (error ?? 'its make failed').replaceAll(`${tree}/`, '').trim()
  }
  await writeFile(join(root, notBuilt), broken.map((test) => `${test}\t${why(test)}\n`).join(''))
  return [`${name} ${source.version}`]
}

/** The selftests of one kernel line, as Debian's newest source of it has them. */
export function kvmSelftests(options: SelftestsOptions): Tool {
  const { version, deadline = 120_000 } = options
  const name = `selftests-${version}`
  const prepare = async (): Promise<PreparedTool> => {
    const source = await sourcePackage(version)
    const pack = await makePack(name, `2 ${source.package} ${source.version}`, (root) => build(source, root))
    const missing = await readNotBuilt(pack.root)
    const built = pack.entries.flatMap(({ path }) => (path.startsWith('kvm/') ? [path.slice(4)] : []))
    const points = (options.only ?? [...built, ...missing.keys()]).toSorted()
    const run = async ({ programs }: ToolPlace, point: string) => {
      const left = options.leaveOut?.[point]
      if (left !== undefined) return { verdict: 'skip', reason: left, output: '' } as const
      const error = missing.get(point)
      if (error !== undefined)
        return { verdict: 'skip', reason: `does not build: ${error}`, output: '' } as const
      if (!built.includes(point))
        return { verdict: 'infra', reason: `${name} has no ${point}`, output: '' } as const
      const argv = [`/kvm/${point}`, ...(options.arguments?.[point] ?? [])]
      return selftestResult(await programs.run({ argv, deadline }), deadline) satisfies PointResult
    }
    return { pack, hash: pack.hash, version: upstreamVersion(source.version), each: { points, run } }
  }
  return { name, takesGuest: false, need: { cpus: 1, memory: 512 << 20 }, prepare }
}

async function readNotBuilt(root: string): Promise<Map<string, string>> {
  const lines = (await readFile(join(root, notBuilt), 'utf8')).split('\n').filter((line) => line !== '')
  return new Map(lines.map((line) => line.split('\t', 2) as [string, string]))
}
