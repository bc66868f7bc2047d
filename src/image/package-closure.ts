/** Which Debian packages a list of packages needs, as apt's own solver says for a machine that has none. */
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { KvitestError } from '../native/error.ts'
import { cachePath, scratchDirectory } from './cache.ts'
import { type CommandResult, complaint, runCommand } from './command.ts'
import {
  hasLists,
  indexOption,
  type Lists,
  listsStamp,
  privateLists,
  refresh,
  systemLists,
} from './debian.ts'
import { textHash } from './hash.ts'

const hint = 'name packages as `apt-cache search --names-only WORD` shows them'

/** This machine's own lists, else ours, fetched when there are none. */
async function anyLists(): Promise<Lists> {
  for (const lists of [await systemLists(), privateLists()]) if (await hasLists(lists)) return lists
  return refresh()
}

function refusal(names: readonly string[], result: CommandResult): KvitestError {
  const text = result.stderr
  const unknown = /Unable to locate package (\S+)|Package '?([^\s']+)'? has no installation candidate/.exec(
    text,
  )
  const name = unknown?.[1] ?? unknown?.[2]
  if (name) {
    return new KvitestError('find packages for the guest', `${name}: Debian has no such package`, {
      code: 'ENOENT',
      hint,
      infra: false,
    })
  }
  return new KvitestError('find packages for the guest', `${names.join(', ')}: ${complaint(result)}`, {
    code: 'ENOENT',
    hint,
    infra: false,
  })
}

async function solve(names: readonly string[], lists: Lists): Promise<string[]> {
  const nothing = '/dev/null'
  const argv = [
    'apt-get',
    ...lists.options,
    ...indexOption(lists.cache, 'solver'),
    ...['-o', `Dir::State::status=${nothing}`, '-o', 'APT::Get::Show-User-Simulation-Note=0'],
    ...['-q', '-s', 'install', '--no-install-recommends', ...names],
  ]
  const result = await runCommand(argv, { package: 'apt' })
  if (result.status !== 0) throw refusal(names, result)
  const chosen = [...result.stdout.toString().matchAll(/^Inst (\S+) \((\S+) /gm)]
  return chosen.map(([, name, version]) => `${name}=${version}`).sort()
}

interface Remembered {
  stamp: string
  closure: string[]
}

/**
 * `NAME=VERSION` of the packages and of all that they depend on, Recommends left out, sorted; remembered while the
 * package lists stay as they are. Rejects with EINVAL for a name that is none, ENOENT for a package that is not there
 * or cannot be had with the others, ENETUNREACH where no lists are and none can be fetched.
 */
export async function packageClosure(names: readonly string[]): Promise<string[]> {
  const odd = names.find((name) => !/^[a-z0-9][a-z0-9+.-]+$/.test(name))
  if (odd !== undefined) {
    throw new KvitestError('find packages for the guest', `${JSON.stringify(odd)} is no name of a package`, {
      code: 'EINVAL',
      hint,
      infra: false,
    })
  }
  const wanted = [...new Set(names)].sort()
  const memory = cachePath('names', `packages-${textHash(wanted.join(' ')).slice(0, 32)}.json`)
  const before = await readFile(memory, 'utf8').then(
    (text) => JSON.parse(text) as Remembered,
    () => undefined,
  )
  if (before && before.stamp === (await listsStamp().catch(() => ''))) return before.closure
  const closure = await solve(wanted, await anyLists())
  const value: Remembered = { stamp: await listsStamp(), closure }
  await remember(memory, JSON.stringify(value)).catch(() => {})
  return closure
}

async function remember(path: string, text: string): Promise<void> {
  const scratch = join(await scratchDirectory(), 'name')
  await writeFile(scratch, text)
  await mkdir(dirname(path), { recursive: true })
  await rename(scratch, path)
  await rm(dirname(scratch), { recursive: true, force: true })
}

/** The .deb files of a closure, in `directory`; with lists of our own when this machine's name files that are gone. */
export async function fetchClosure(closure: readonly string[], directory: string): Promise<string[]> {
  const fetch = async (lists: Lists) => {
    const argv = ['apt-get', ...lists.options, 'download', '-q', '-o', 'APT::Sandbox::User=root', ...closure]
    return await runCommand(argv, { cwd: directory, package: 'apt' })
  }
  await mkdir(directory, { recursive: true })
  let result = await fetch(await anyLists())
  if (result.status !== 0) {
    const first = result
    result = await refresh().then(fetch, () => first)
  }
  if (result.status !== 0) {
    throw new KvitestError('fetch packages for the guest', complaint(result), {
      code: 'ENETUNREACH',
      hint: 'connect this machine to a Debian archive (the first use of a list of packages needs it)',
    })
  }
  return (await readdir(directory))
    .filter((name) => name.endsWith('.deb'))
    .map((name) => join(directory, name))
}
