/** `kvitest cache ls|prune`: what the cache holds, and less of it. */
import { parseArgs } from 'node:util'
import { parseSize } from '../budget/memory.ts'
import { SavedLabs } from '../host/index.ts'
import { cacheRoot } from '../image/cache.ts'
import { type CacheEntry, cacheEntries, type PruneOptions, pruneCache } from '../image/cache-content.ts'
import { KvitestError } from '../native/error.ts'

const usage = `usage: kvitest cache ls
       kvitest cache prune [--all | --older-than AGE | --max SIZE]

ls      what the cache holds: kind, what, size on the disk, last use; the least recently used first
prune   removes what was not used for 30 days
  --all               everything
  --older-than AGE    what was not used for so long: 12h, 7d, 4w
  --max SIZE          the least recently used until SIZE (4G, 500M) is left
What a running kvitest or vitest has used stays. Everything removed is fetched or made again when it is needed.`

/** Kinds by folder of the cache; a folder of another name is its own kind. */
const kinds: Record<string, string> = {
  apt: 'package lists',
  calibration: 'calibration',
  hashes: 'hashes',
  initramfs: 'initramfs',
  kernels: 'kernel',
  lab: 'lab image',
  files: 'package files',
  labs: 'saved lab',
  names: 'kernel names',
}

const units: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400, w: 7 * 86_400 }

/** Milliseconds of `90s`, `12h`, `7d`. */
export function parseAge(text: string): number {
  const match = /^(\d+)([smhdw])$/.exec(text)
  const seconds = match ? Number(match[1]) * units[match[2]!]! : Number.NaN
  if (Number.isSafeInteger(seconds)) return seconds * 1000
  throw new KvitestError('read an age', `${text}: not an age`, {
    code: 'EINVAL',
    hint: 'write 12h, 7d or 4w',
  })
}

/** `3 d`, in the largest unit of which there are two. */
export function ageText(milliseconds: number): string {
  const seconds = Math.max(0, Math.round(milliseconds / 1000))
  const unit = ['d', 'h', 'm'].find((one) => seconds >= 2 * units[one]!) ?? 's'
  return `${Math.floor(seconds / units[unit]!)} ${unit}`
}

export function sizeText(bytes: number): string {
  const step = [
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
  ] as const
  for (const [unit, size] of step) if (bytes >= size) return `${(bytes / size).toFixed(1)} ${unit}`
  return `${Math.ceil(bytes / 1024)} KiB`
}

/** Saved labs and long content hashes by what they are to a person. */
function nameOf(entry: CacheEntry, kernels: ReadonlyMap<string, string>): string {
  const short = entry.name.replace(/^([0-9a-f]{12})[0-9a-f]+/, '$1')
  const kernel = entry.folder === 'labs' ? kernels.get(entry.name) : undefined
  return kernel ? `${kernel} ${short}` : short
}

async function lines(entries: readonly CacheEntry[]): Promise<string[]> {
  const kernels = new Map((await new SavedLabs().list()).map(({ key, kernel }) => [key, kernel]))
  const rows = entries.map((entry) => [
    kinds[entry.folder] ?? entry.folder,
    nameOf(entry, kernels),
    sizeText(entry.bytes),
    `${ageText(Date.now() - entry.used)} ago`,
  ])
  const widths = [0, 1, 2].map((column) => Math.max(0, ...rows.map((row) => row[column]!.length)))
  return rows.map(([kind, name, size, used]) =>
    [kind!.padEnd(widths[0]!), name!.padEnd(widths[1]!), size!.padStart(widths[2]!), used!].join('  '),
  )
}

function total(entries: readonly CacheEntry[]): string {
  const bytes = entries.reduce((sum, entry) => sum + entry.bytes, 0)
  return `${sizeText(bytes)} in ${entries.length} ${entries.length === 1 ? 'entry' : 'entries'}`
}

function pruneOptions(values: { all?: boolean; 'older-than'?: string; max?: string }): PruneOptions {
  if (Object.keys(values).length > 1) {
    throw new KvitestError('kvitest cache prune', 'more than one of --all, --older-than and --max')
  }
  if (values.all) return { olderThan: 0 }
  if (values.max !== undefined) return { max: parseSize(values.max) }
  return { olderThan: parseAge(values['older-than'] ?? '30d') }
}

/** `kvitest cache`: returns the exit status. */
export async function cache(argv: string[]): Promise<number> {
  const [action, ...rest] = argv
  if (action === 'ls' && rest.length === 0) {
    const entries = await cacheEntries()
    for (const line of await lines(entries)) console.log(line)
    console.log(`${total(entries)}: ${cacheRoot()}`)
    return 0
  }
  if (action === 'prune' && !rest.some((argument) => ['-h', '--help'].includes(argument))) {
    const { values } = parseArgs({
      args: rest,
      options: { all: { type: 'boolean' }, 'older-than': { type: 'string' }, max: { type: 'string' } },
    })
    const { removed, inUse } = await pruneCache(pruneOptions(values))
    for (const line of await lines(removed)) console.log(`removed  ${line}`)
    console.log(`removed ${total(removed)}: ${cacheRoot()}`)
    if (inUse.length > 0) console.log(`kept ${total(inUse)}, which running processes have used`)
    return 0
  }
  console.log(usage)
  return action === undefined || ['--help', '-h', 'prune'].includes(action) ? 0 : 2
}
