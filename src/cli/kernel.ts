/** `kvitest kernel ls|fetch|config`: which there are, into the cache, and what their configurations lack. */
import { parseArgs } from 'node:util'
import { checkConfig, type Lack, renderFragment } from '../image/config/check.ts'
import { type ConfiguredKernel, readKernelConfig } from '../image/config/read.ts'
import { purposes } from '../image/config/requirements.ts'
import { cachedKernels, type KernelPackage } from '../image/debian.ts'
import { servedBuilds } from '../image/debian-kernel.ts'
import { resolveKernel } from '../image/resolve.ts'
import { KvitestError } from '../native/error.ts'

const usage = `usage: kvitest kernel ls [--json] [LINE...]
       kvitest kernel fetch [name...]
       kvitest kernel config [--for PURPOSE]... [--fragment] KERNEL

ls      every build that Debian serves of these lines (6.12; default all), the oldest first. debian:6.12-cloud is the
        newest and debian:6.12-cloud@oldest the oldest one, whichever that is today
fetch   fetches kernels (default: debian:6.12-cloud debian:6.1-cloud) into the cache and prints where they are
config  what a kernel's configuration lacks, and whether the modules it names are there. KERNEL is a name, an image, a
        build tree, a .config, or debian:6.12-generic (configuration only). Exit status 1 when something needed is
        missing
  --for PURPOSE  virtio (a guest of ours), kvm (the kernel of a lab) or debug (failures that explain themselves); may
                 be repeated (default virtio)
  --fragment     only what is missing, as a fragment for the kernel's scripts/kconfig/merge_config.sh`

async function fetchKernels(names: string[]): Promise<number> {
  for (const name of names.length > 0 ? names : ['debian:6.12-cloud', 'debian:6.1-cloud']) {
    const found = await resolveKernel(name)
    console.log(`${name}\t${found.release}\t${found.image}`)
  }
  return 0
}

async function list(argv: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: { json: { type: 'boolean', default: false } },
  })
  const wrong = positionals.find((line) => !/^\d+\.\d+$/.test(line))
  if (wrong !== undefined) {
    throw new KvitestError('kvitest kernel ls', `${wrong} is no line of kernels`, {
      hint: 'give 6.1 or 6.12',
    })
  }
  const [builds, local] = await Promise.all([
    servedBuilds(positionals.length > 0 ? positionals : undefined),
    cachedKernels(),
  ])
  const isCached = (one: KernelPackage) =>
    local.some((other) => other.package === one.package && other.version === one.version)
  if (values.json) {
    console.log(
      JSON.stringify(
        builds.map((build) => ({ ...build, isCached: isCached(build) })),
        null,
        2,
      ),
    )
    return 0
  }
  const rows = builds.map((build) => {
    const ends = [...(build.isOldest ? ['oldest'] : []), ...(build.isNewest ? ['newest'] : [])]
    const notes = [
      ...ends.map((end) => `${end} of ${build.line}`),
      ...(isCached(build) ? ['in the cache'] : []),
    ]
    return [build.name, build.release, build.version, notes.join(', ')]
  })
  const widths = [0, 1, 2].map((at) => Math.max(...rows.map((row) => row[at]!.length)))
  for (const row of rows)
    console.log(
      row
        .map((text, at) => text.padEnd(widths[at] ?? 0))
        .join('  ')
        .trimEnd(),
    )
  return 0
}

function printLacks(kernel: ConfiguredKernel, lacks: readonly Lack[]): void {
  console.log(`configuration: ${kernel.config.origin}`)
  if (kernel.modules === undefined) console.log('modules: not looked at, there is only a configuration')
  for (const level of ['needed', 'useful'] as const) {
    const own = lacks.filter((lack) => lack.level === level)
    if (own.length === 0) continue
    console.log(`${level}:`)
    for (const { what, is, want, why, purpose } of own) {
      console.log(`  ${what} is ${is}, should be ${want} (${purpose}: ${why})`)
    }
  }
  const isNeeded = lacks.some((lack) => lack.level === 'needed')
  if (!isNeeded) console.log(lacks.length === 0 ? 'nothing is missing' : 'nothing that is needed is missing')
}

async function config(argv: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: {
      for: { type: 'string', multiple: true, default: ['virtio'] },
      fragment: { type: 'boolean', default: false },
    },
  })
  const [name] = positionals
  if (name === undefined || positionals.length > 1) {
    throw new KvitestError('kvitest kernel config', `${positionals.length} kernels`, { hint: 'give one' })
  }
  const wanted = values.for.map((text) => {
    const found = purposes.find((one) => one === text)
    if (found) return found
    throw new KvitestError('kvitest kernel config', `--for ${text}`, { hint: `give ${purposes.join(', ')}` })
  })
  const kernel = await readKernelConfig(name)
  const lacks = wanted.flatMap((purpose) => checkConfig(kernel.config, purpose, kernel.modules))
  if (values.fragment) process.stdout.write(renderFragment(name, lacks))
  else printLacks(kernel, lacks)
  return lacks.some((lack) => lack.level === 'needed') ? 1 : 0
}

/** `kvitest kernel`: returns the exit status. */
export async function kernel(argv: string[]): Promise<number> {
  const [action, ...rest] = argv
  const wantsHelp = argv.some((argument) => argument === '--help' || argument === '-h')
  if (!wantsHelp && action === 'ls') return await list(rest)
  if (!wantsHelp && action === 'fetch') return await fetchKernels(rest)
  if (!wantsHelp && action === 'config') return await config(rest)
  console.log(usage)
  return action === undefined || wantsHelp ? 0 : 2
}
