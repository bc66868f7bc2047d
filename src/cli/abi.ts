/** `kvitest abi catalogue|headers`: what KVM's API is, and what differs between two sets of headers. */
import { parseArgs } from 'node:util'
import { type Catalogue, catalogueOf, catalogueVersions } from '../abi/catalogue/catalogue.ts'
import { KvitestError } from '../native/error.ts'

const usage = `usage: kvitest abi catalogue [--update | --check]
       kvitest abi headers [options] A B

catalogue   counts of the catalogue of KVM's API, for each kernel version in it
  --check     makes it again from Debian's packages and says what differs; exit status 1 when something does
  --update    makes it again and writes it to src/abi/catalogue/data`

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

/** `kvitest abi`: returns the exit status. */
export async function abi(argv: string[]): Promise<number> {
  const [action, ...rest] = argv
  const wantsHelp = argv.some((argument) => argument === '--help' || argument === '-h')
  if (!wantsHelp && action === 'catalogue') return await showCatalogue(rest)
  console.log(usage)
  return action === undefined || wantsHelp ? 0 : 2
}
