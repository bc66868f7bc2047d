/** `kvitest abi catalogue|headers|dump|diff|footprint`: what KVM's API is, and what differs between headers and between hosts. */
import { parseArgs } from 'node:util'
import { type Catalogue, catalogueOf, catalogueVersions } from '../abi/catalogue/catalogue.ts'
import { compileHeaders, kvmHeaders } from '../abi/headers/compile.ts'
import { openTree } from '../abi/headers/tree.ts'
import { runAbidiff } from '../abi/static/abidiff.ts'
import { changeClasses, compareHeaders } from '../abi/static/diff.ts'
import { judge, readSuppressions } from '../abi/static/suppressions.ts'
import { countByClass, renderChanges } from '../abi/static/text.ts'
import { KvitestError } from '../native/error.ts'
import { diff, dump, footprint } from './abi-profile.ts'

const usage = `usage: kvitest abi catalogue [--update | --check]
       kvitest abi headers [options] A B
       kvitest abi dump [--host HOST] [-o FILE]
       kvitest abi diff [options] A B [C...]
       kvitest abi footprint --tool NAME --version V TRACE

catalogue   counts of the catalogue of KVM's API, for each kernel version in it
  --check     makes it again from Debian's packages and says what differs; exit status 1 when something does
  --update    makes it again and writes it to src/abi/catalogue/data

headers     what a program built for the UAPI headers A meets in B, by class: breaking, additive, info; with the
            report of abidiff where it is installed. A and B are debian:6.12, debian:6.12.115,
            debian:trixie-backports/7.3, a .deb with headers, a kernel tree, or a folder such as usr/include
  --arch A             x86 or arm64 (default x86)
  --header H           a header to compare; may be repeated (default KVM's: linux/kvm.h, asm/kvm.h, kvm_para.h)
  --suppressions FILE  known changes (default src/abi/static/suppressions.yaml)
  --fail-on CLASS      exit status 1 when a change of this class or a worse one is there (default breaking); never
  --json               all changes as JSON

dump        the profile of a host: what its KVM answers, as JSON, one key a line
  --host HOST          local or lab:KERNEL such as lab:debian:6.1-cloud (default KVITEST_HOST, else local)
  -o FILE              written there, whole or not at all (default standard output)

diff        what differs between profiles, by class: breaking, tightened, additive, environment, info; of more than two
            also which one factor explains it (kernel, accelerator, CPU model, SMP, memory, module parameters)
  --format F           human, json or markdown (default human)
  --fail-on CLASS      exit status 1 when a change of this class or a worse one is there: breaking (default), tightened,
                       additive, never
  --all                lists what belongs to the environment too

footprint   what a tool uses of KVM's API, as JSON for src/abi/footprints/data: diff names the tools that a change meets
  TRACE                what strace -f --kvm=vcpu -e trace=ioctl -o TRACE TOOL... wrote`

const note = (line: string) => process.stderr.write(`kvitest: ${line}\n`)

function counts(version: Catalogue): [string, number][] {
  const pairs = version.errnoPairs()
  return [
    ['ioctls in the header', version.ioctls.length],
    ['  that compile on x86', version.ioctls.filter((one) => one.request !== undefined).length],
    ['  with a section in api.rst', version.ioctls.filter((one) => one.doc !== undefined).length],
    ['  documented for x86', version.documented().length],
    ['(ioctl, errno) pairs', version.ioctls.flatMap((one) => one.errnos).length],
    ['  for x86', pairs.length],
    ['  in a table of errors', pairs.filter(({ errno }) => errno.source === 'errtable').length],
    ['capabilities in the header', version.capabilities.length],
    ['  with a section in api.rst', version.capabilities.filter((one) => one.doc !== undefined).length],
    ['exit reasons in the header', version.exitReasons.length],
    ['  named in api.rst 5', version.exitReasons.filter((one) => one.documented).length],
    ['structures and unions', version.structs.length],
  ]
}

function printCounts(): void {
  const columns = catalogueVersions.map((version) => counts(catalogueOf(version)))
  console.log(`${''.padEnd(32)}${catalogueVersions.map((version) => version.padStart(6)).join('')}`)
  for (const [row, [label]] of columns[0]!.entries()) {
    console.log(`${label.padEnd(32)}${columns.map((column) => String(column[row]![1]).padStart(6)).join('')}`)
  }
}

async function regenerate(isUpdate: boolean): Promise<number> {
  const { compareData, fetchSources, generate, writeData } = await import('../abi/catalogue/generate.ts')
  const { catalogueData } = await import('../abi/catalogue/catalogue.ts')
  const made = []
  for (const version of catalogueVersions) made.push(await generate(await fetchSources(version, { note })))
  const problems = made.flatMap((one) => one.problems)
  for (const problem of problems) console.error(`kvitest: ${problem}`)
  if (problems.length > 0) {
    throw new KvitestError(
      'make the catalogue',
      `its sources disagree in ${problems.length} places, nothing was written`,
      {
        code: 'EILSEQ',
        hint: 'list what is understood in src/abi/catalogue/known-disagreements.ts, with the reason',
      },
    )
  }
  if (isUpdate) {
    await writeData(made.map((one) => one.data))
    return 0
  }
  const differences = made.flatMap(({ data }, index) =>
    compareData(catalogueData(catalogueVersions[index]!), data),
  )
  for (const line of differences) console.log(line)
  console.log(
    differences.length === 0 ? 'the catalogue is what its sources say' : `${differences.length} differences`,
  )
  return differences.length === 0 ? 0 : 1
}

async function showCatalogue(argv: string[]): Promise<number> {
  const { values } = parseArgs({
    args: argv,
    options: {
      check: { type: 'boolean', default: false },
      update: { type: 'boolean', default: false },
    },
  })
  if (values.check || values.update) return await regenerate(values.update)
  printCounts()
  return 0
}

function pick<T extends string>(option: string, text: string, from: readonly T[]): T {
  const found = from.find((one) => one === text)
  if (found !== undefined) return found
  throw new KvitestError('kvitest abi headers', `--${option} ${text}`, { hint: `give ${from.join(', ')}` })
}

async function compareHeaderTrees(argv: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: {
      arch: { type: 'string', default: 'x86' },
      header: { type: 'string', multiple: true },
      suppressions: { type: 'string' },
      'fail-on': { type: 'string', default: 'breaking' },
      json: { type: 'boolean', default: false },
    },
  })
  const [before, after] = positionals
  if (before === undefined || after === undefined || positionals.length > 2) {
    throw new KvitestError('kvitest abi headers', `${positionals.length} header trees`, { hint: 'give two' })
  }
  const arch = pick('arch', values.arch, ['x86', 'arm64'] as const)
  const failOn = pick('fail-on', values['fail-on'], [...changeClasses, 'never'] as const)
  const headers = values.header ?? kvmHeaders
  const suppressions = await readSuppressions(values.suppressions)
  const compiled = []
  for (const name of [before, after]) {
    const tree = await openTree(name, { note })
    compiled.push({ tree, facts: await compileHeaders(tree, arch, headers) })
  }
  const changes = judge(compareHeaders(compiled[0]!.facts, compiled[1]!.facts), suppressions)
  const abidiff = await runAbidiff(compiled[0]!, compiled[1]!, headers)
  if (values.json) console.log(JSON.stringify({ before, after, arch, headers, changes, abidiff }, null, 2))
  else {
    for (const line of renderChanges(changes)) console.log(line)
    if (abidiff === undefined) console.log('abidiff: not installed (Debian: abigail-tools)')
    else console.log(`abidiff: ${abidiff || 'no difference'}`)
  }
  if (failOn === 'never') return 0
  const counts = countByClass(changes)
  const isBad = changeClasses.slice(0, changeClasses.indexOf(failOn) + 1).some((kind) => counts[kind] > 0)
  return isBad ? 1 : 0
}

/** `kvitest abi`: returns the exit status. */
export async function abi(argv: string[]): Promise<number> {
  const [action, ...rest] = argv
  const wantsHelp = argv.some((argument) => argument === '--help' || argument === '-h')
  if (!wantsHelp && action === 'catalogue') return await showCatalogue(rest)
  if (!wantsHelp && action === 'headers') return await compareHeaderTrees(rest)
  if (!wantsHelp && action === 'dump') return await dump(rest)
  if (!wantsHelp && action === 'diff') return await diff(rest)
  if (!wantsHelp && action === 'footprint') return await footprint(rest)
  console.log(usage)
  return action === undefined || wantsHelp ? 0 : 2
}
