/** `kvitest abi dump|diff|footprint`: what a host's KVM is, and what differs between hosts. */
import { stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { parseArgs } from 'node:util'
import { readFootprints, toolsByKey } from '../abi/footprints/footprints.ts'
import { footprintOfTrace } from '../abi/footprints/trace.ts'
import { compareProfiles, type ProfileClass } from '../abi/profile/diff.ts'
import { dumpHost } from '../abi/profile/dump.ts'
import { readProfile, renderProfile, writeProfile } from '../abi/profile/profile.ts'
import { countByClass, renderHuman, renderMarkdown } from '../abi/profile/text.ts'
import { KvitestError } from '../native/error.ts'

/** Classes that a run can be made to fail on: the worse ones come before. */
const failClasses = ['breaking', 'tightened', 'additive'] as const
const formats = ['human', 'json', 'markdown'] as const

function pick<T extends string>(option: string, text: string, from: readonly T[]): T {
  const found = from.find((one) => one === text)
  if (found !== undefined) return found
  throw new KvitestError('kvitest abi diff', `--${option} ${text}`, { hint: `give ${from.join(', ')}` })
}

/** Before the host is opened, which takes seconds. */
async function checkTarget(path: string): Promise<void> {
  const refuse = (code: string, hint: string) =>
    new KvitestError('write the profile', `${path}: ${code}`, { code, hint, infra: false })
  const [found, parent] = await Promise.all(
    [path, dirname(path)].map((one) => stat(one).catch(() => undefined)),
  )
  if (found?.isDirectory()) throw refuse('EISDIR', 'give a file')
  if (!parent?.isDirectory()) throw refuse('ENOENT', 'give a file in a directory that is there')
}

/** `kvitest abi dump`: returns the exit status. */
export async function dump(argv: string[]): Promise<number> {
  const { values } = parseArgs({
    args: argv,
    options: {
      host: { type: 'string', default: process.env.KVITEST_HOST || 'local' },
      output: { type: 'string', short: 'o' },
    },
  })
  if (values.output !== undefined) await checkTarget(values.output)
  const profile = await dumpHost(values.host)
  if (values.output === undefined) process.stdout.write(renderProfile(profile))
  else {
    await writeProfile(values.output, profile)
    const { abi, machine, volatile } = profile
    console.log(
      `${values.output}: ${values.host}, ${Object.keys(abi).length} keys of KVM, ${Object.keys(machine).length} of the machine, ${volatile.length} volatile`,
    )
  }
  return 0
}

/** `kvitest abi diff`: returns the exit status. */
export async function diff(argv: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: {
      format: { type: 'string', default: 'human' },
      'fail-on': { type: 'string', default: 'breaking' },
      all: { type: 'boolean', default: false },
    },
  })
  if (positionals.length < 2) {
    throw new KvitestError('kvitest abi diff', `${positionals.length} profiles`, { hint: 'give two or more' })
  }
  const format = pick('format', values.format, formats)
  const failOn = pick('fail-on', values['fail-on'], [...failClasses, 'never'] as const)
  const profiles = await Promise.all(positionals.map(readProfile))
  const changes = compareProfiles(profiles, toolsByKey(await readFootprints()))
  const counts = countByClass(changes)
  if (format === 'json') console.log(JSON.stringify({ profiles: positionals, counts, changes }, null, 2))
  else {
    const lines =
      format === 'markdown'
        ? renderMarkdown(changes, positionals.join(' -> '))
        : renderHuman(changes, { showAll: values.all })
    for (const line of lines) console.log(line)
  }
  if (failOn === 'never') return 0
  const failing: readonly ProfileClass[] = failClasses.slice(0, failClasses.indexOf(failOn) + 1)
  return failing.some((kind) => counts[kind] > 0) ? 1 : 0
}

/** `kvitest abi footprint`: returns the exit status. */
export async function footprint(argv: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: { tool: { type: 'string' }, version: { type: 'string' } },
  })
  const [trace] = positionals
  const { tool, version } = values
  if (trace === undefined || positionals.length > 1 || !tool || !version) {
    throw new KvitestError('kvitest abi footprint', 'a tool, its version and one trace', {
      hint: 'see kvitest abi --help',
      infra: false,
    })
  }
  console.log(JSON.stringify(await footprintOfTrace(trace, { tool, version }), null, 2))
  return 0
}
