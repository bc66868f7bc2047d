import { relative } from 'node:path'
import semver from 'semver'
import { LineCounter, parseDocument } from 'yaml'
import { KvitestError } from '../native/error.ts'

/** What every entry of an `*.expect.yaml` says: what is known, why, where, and until when. */
export interface Entry {
  /** `suites/virtio/virtio.expect.yaml:12` */
  source: string
  reason: string
  /** Where it is discussed or fixed; only a skip may go without. */
  link?: string
  /** A semver range of kernel releases, such as `>=6.1 <6.2 || 6.12.x`; absent: all. */
  kernel?: string
  /** A glob of host names, such as `lab:*`; absent: all. */
  host?: string
  /** The last day it is believed, `2027-01-31`, as the machine's calendar has it; only a skip may go without. */
  expires?: string
  /** What mends it: a commit, a version. Where the entry is no longer true, a reader knows why. */
  'fixed-by'?: string
}

/** A test that is known to fail. */
export interface ExpectedFailure extends Entry {
  /** A glob of the test's full name: `console.tap.sh > cpus=2 > port * echoes`. */
  test: string
}

/** A point, or a whole script, that may skip itself. */
export type ExpectedSkip = ExpectedFailure

/** A report of the kernel that is known and not this run's business. */
export interface AllowedSplat extends Entry {
  /** A regular expression that the title matches. */
  pattern: string
}

export interface Expectations {
  failures: ExpectedFailure[]
  splats: AllowedSplat[]
  skips: ExpectedSkip[]
}

/** An `*.expect.yaml` as it was read. */
export interface ExpectationFile extends Expectations {
  /** Absolute. */
  path: string
  /** Absolute: the folder that the names of its tests begin from. */
  base: string
}

/** A test as its file and the names of its blocks and its own. */
export interface TestName {
  /** Absolute. */
  file: string
  path: string[]
}

/** Where something happened; what nobody told is absent. */
export interface Place {
  /** uname -r of the guest. */
  kernelRelease?: string | undefined
  /** `local`, `lab:debian:6.12-cloud` */
  host?: string | undefined
}

/** An allowed splat as a judge takes it: where and when no longer matter. */
export interface SplatAllowance extends AllowedSplat {
  isExpired: boolean
}

const keys = {
  failures: ['test', 'reason', 'link', 'kernel', 'host', 'expires', 'fixed-by'],
  splats: ['pattern', 'reason', 'link', 'kernel', 'host', 'expires', 'fixed-by'],
  skips: ['test', 'reason', 'link', 'kernel', 'host', 'expires', 'fixed-by'],
} as const
const required = {
  failures: ['test', 'reason', 'link', 'expires'],
  splats: ['pattern', 'reason', 'link', 'expires'],
  skips: ['test', 'reason'],
} as const

/** Reads one file. Throws a KvitestError that names `file:line` and the cure. */
export function parseExpectations(text: string, file: string): Expectations {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false })
  const lineOf = (path: (string | number)[]): number => {
    const node = document.getIn(path, true) as { range?: [number, number, number] } | undefined
    return lines.linePos(node?.range?.[0] ?? 0).line
  }
  const refuse = (path: (string | number)[], detail: string): never => {
    throw new KvitestError(`${file}:${lineOf(path)}`, detail, {
      hint: 'docs/expectations.md lists what an entry has',
      infra: false,
    })
  }
  const broken = document.errors[0]
  if (broken) {
    throw new KvitestError(`${file}:${lines.linePos(broken.pos[0]).line}`, broken.message.split('\n')[0]!, {
      infra: false,
    })
  }
  const root: unknown = document.toJS() ?? {}
  if (!isRecord(root)) return refuse([], "want 'failures:', 'splats:' and 'skips:', each a list")
  const strange = Object.keys(root).find((key) => !(key in keys))
  if (strange) refuse([strange], `unknown key '${strange}'; there are 'failures', 'splats' and 'skips'`)
  const list = (kind: keyof typeof keys): Record<string, string>[] => {
    const value = root[kind] ?? []
    if (!Array.isArray(value)) return refuse([kind], `${kind}: want a list`)
    return value.map((one: unknown, index) => {
      checkEntry(one, kind, (detail, key) => refuse([kind, index, ...(key ? [key] : [])], detail))
      return { ...(one as Record<string, string>), source: `${file}:${lineOf([kind, index])}` }
    })
  }
  return {
    failures: list('failures') as unknown as ExpectedFailure[],
    splats: list('splats') as unknown as AllowedSplat[],
    skips: list('skips') as unknown as ExpectedSkip[],
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function checkEntry(
  entry: unknown,
  kind: keyof typeof keys,
  refuse: (detail: string, key?: string) => never,
): void {
  if (!isRecord(entry)) {
    refuse(`want { ${keys[kind].join(', ')} }`)
    return
  }
  const known: readonly string[] = keys[kind]
  for (const [key, value] of Object.entries(entry)) {
    if (!known.includes(key)) refuse(`unknown key '${key}'; there are ${known.join(', ')}`, key)
    if (typeof value !== 'string' || value.trim() === '') refuse(`${key}: want text`, key)
  }
  for (const key of required[kind]) {
    if (entry[key] === undefined) refuse(`an entry without '${key}'`)
  }
  const { expires, kernel, pattern } = entry as Record<string, string>
  if (expires !== undefined && !isDay(expires))
    refuse(`expires: ${expires} is no day such as 2027-01-31`, 'expires')
  if (kernel !== undefined && semver.validRange(kernel) === null) {
    refuse(`kernel: ${kernel} is no range such as '>=6.1 <6.2'`, 'kernel')
  }
  if (pattern === undefined) return
  try {
    new RegExp(pattern)
  } catch (error) {
    refuse(`pattern: ${(error as Error).message}`, 'pattern')
  }
}

function isDay(text: string): boolean {
  return /^\d{4}-\d\d-\d\d$/.test(text) && !Number.isNaN(Date.parse(text))
}

/** The test's full name as entries of a file in that folder have it: `console.tap.sh > cpus=2 > port 1 echoes`. */
export function fullName(base: string, { file, path }: TestName): string {
  return [relative(base, file), ...path].join(' > ')
}

/** The entry of that kind that names this test here; the first that matches, of the files in their order. */
export function entryFor(
  kind: 'failures' | 'skips',
  files: readonly ExpectationFile[],
  test: TestName,
  place: Place,
): ExpectedFailure | undefined {
  for (const file of files) {
    const name = fullName(file.base, test)
    const entry = file[kind].find((one) => globMatches(one.test, name) && appliesTo(one, place))
    if (entry) return entry
  }
  return undefined
}

/** The splats that are allowed at that place, in order; expired ones too, for a judge to say so. */
export function allowancesAt(entries: readonly AllowedSplat[], place: Place, now: Date): SplatAllowance[] {
  return entries
    .filter((entry) => appliesTo(entry, place))
    .map((entry) => ({ ...entry, isExpired: isExpired(entry, now) }))
}

/** The first that allows a splat of this title. */
export function allowanceFor(
  allowances: readonly SplatAllowance[],
  title: string,
): SplatAllowance | undefined {
  return allowances.find(({ pattern }) => new RegExp(pattern).test(title))
}

/** `a.expect.yaml:3: flaky wake-up, https://example.org/1` */
export function describeEntry({ source, reason, link, 'fixed-by': fix }: Entry): string {
  const more = [...(link === undefined ? [] : [link]), ...(fix === undefined ? [] : [`fixed by ${fix}`])]
  return [`${source}: ${reason}`, ...more].join(', ')
}

/** From the day after `expires` on, in local time. */
export function isExpired(entry: Entry, now: Date): boolean {
  if (entry.expires === undefined) return false
  const [year, month, day] = entry.expires.split('-').map(Number)
  return now >= new Date(year!, month! - 1, day! + 1)
}

/** Whether it speaks of guests there. */
export function appliesTo({ kernel, host }: Entry, place: Place): boolean {
  // A guest that never told where it was may have been anywhere: what is known about some places excuses none of them.
  if (host !== undefined && (place.host === undefined || !globMatches(host, place.host))) return false
  if (kernel === undefined) return true
  const version = place.kernelRelease === undefined ? null : kernelVersion(place.kernelRelease)
  return version !== null && semver.satisfies(version, kernel)
}

/** `6.12.117` of `6.12.117+deb12-cloud-amd64`; release candidates count as their release. */
function kernelVersion(release: string): string | null {
  const [, major, minor, patch = '0'] = /^(\d+)\.(\d+)(?:\.(\d+))?/.exec(release) ?? []
  return major === undefined ? null : `${major}.${minor}.${patch}`
}

/** `*` stands for any text; everything else for itself. */
export function globMatches(glob: string, text: string): boolean {
  const parts = glob.split('*').map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&'))
  return new RegExp(`^${parts.join('.*')}$`, 's').test(text)
}
