import semver from 'semver'
import { LineCounter, parseDocument } from 'yaml'
import { KvitestError } from '../native/error.ts'

/** What both kinds of entries of an `*.expect.yaml` say: what is known, why, where, and until when. */
export interface Entry {
  /** `suites/virtio/virtio.expect.yaml:12` */
  source: string
  reason: string
  /** Where it is discussed or fixed. */
  link: string
  /** A semver range of kernel releases, such as `>=6.1 <6.2 || 6.12.x`; absent: all. */
  kernel?: string
  /** A glob of host names, such as `lab:*`; absent: all. */
  host?: string
  /** The last day it is believed, `2027-01-31`, as the machine's calendar has it. */
  expires: string
}

/** A test that is known to fail. */
export interface ExpectedFailure extends Entry {
  /** A glob of the test's full name: `console.tap.sh > cpus=2 > port * echoes`. */
  test: string
}

/** A report of the kernel that is known and not this run's business. */
export interface AllowedSplat extends Entry {
  /** A regular expression that the title matches. */
  pattern: string
}

export interface Expectations {
  failures: ExpectedFailure[]
  splats: AllowedSplat[]
}

/** Where something happened. */
export interface Place {
  /** uname -r of the guest; absent when it never said. */
  kernelRelease?: string | undefined
  /** `local`, `lab:debian:6.12-cloud` */
  host: string
}

const keys = {
  failures: ['test', 'reason', 'link', 'kernel', 'host', 'expires'],
  splats: ['pattern', 'reason', 'link', 'kernel', 'host', 'expires'],
} as const
const required = ['reason', 'link', 'expires'] as const

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
      hint: 'an entry has test or pattern, reason, link and expires, and may have kernel and host',
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
  if (!isRecord(root)) return refuse([], "want 'failures:' and 'splats:', each a list")
  const strange = Object.keys(root).find((key) => !(key in keys))
  if (strange) refuse([strange], `unknown key '${strange}'; there are 'failures' and 'splats'`)
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
  for (const key of [keys[kind][0], ...required]) {
    if (entry[key] === undefined) refuse(`an entry without '${key}'`)
  }
  const { expires, kernel, pattern } = entry as Record<string, string>
  if (!isDay(expires!)) refuse(`expires: ${expires} is no day such as 2027-01-31`, 'expires')
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

/** The entry that says this test fails here; the first that matches. */
export function expectedFailure(
  expectations: Expectations,
  test: string,
  place: Place,
): ExpectedFailure | undefined {
  return expectations.failures.find((entry) => globMatches(entry.test, test) && appliesTo(entry, place))
}

/** The entry that allows a splat of this title here; the first that matches. */
export function allowedSplat(
  expectations: Expectations,
  title: string,
  place: Place,
): AllowedSplat | undefined {
  return expectations.splats.find((entry) => new RegExp(entry.pattern).test(title) && appliesTo(entry, place))
}

/** From the day after `expires` on, in local time. */
export function isExpired(entry: Entry, now: Date): boolean {
  const [year, month, day] = entry.expires.split('-').map(Number)
  return now >= new Date(year!, month! - 1, day! + 1)
}

function appliesTo({ kernel, host }: Entry, place: Place): boolean {
  if (host !== undefined && !globMatches(host, place.host)) return false
  if (kernel === undefined) return true
  // A guest that never told its release may be any: what is known about some kernels excuses none of them.
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
