import { catalogueOf } from 'kvitest'
import { absences } from '../absences.ts'
import { appliesTo } from '../claim.ts'
import { kindsOf, unknownAnswer } from '../fd-kinds.ts'
import type { Row } from './rows.ts'
import { type Obstacle, otherArchitectures, unreachedExits, unreachedPairs } from './unreached.ts'

export interface Completeness {
  lines: string[]
  /** What has no reason, and reasons that no longer apply. */
  problems: string[]
}

interface Reason {
  why: string
  obstacle: Obstacle
}

interface Part {
  what: string
  all: string[]
  reached: Set<string>
  /** Reason of each that need not be reached. */
  reasons: Map<string, Reason>
  sometimes: Set<string>
}

/** The newest version of the catalogue that is not newer than a kernel. */
export function catalogueFor(release: string): ReturnType<typeof catalogueOf> {
  const [major = 0, minor = 0] = release.split('.').map((part) => Number.parseInt(part, 10))
  const older = ['6.1', '6.12', '7.3'].filter((version) => {
    const [a = 0, b = 0] = version.split('.').map(Number)
    return a < major || (a === major && b <= minor)
  })
  return catalogueOf(older.at(-1) ?? '6.1')
}

/** Outcomes of each ioctl on fds that it is for. */
function outcomesOf(rows: readonly Row[], known: ReturnType<typeof catalogueOf>): Map<string, Set<string>> {
  const kinds = new Map(known.ioctls.map((one) => [one.name, new Set<string>(kindsOf(one))]))
  const found = new Map<string, Set<string>>()
  for (const call of new Set(rows.flatMap(({ check }) => check.calls))) {
    const [kind, name, outcome] = call.split(' ') as [string, string, string]
    if (kinds.get(name)?.has(kind)) found.set(name, (found.get(name) ?? new Set()).add(`${kind} ${outcome}`))
  }
  return found
}

/** What a host that does not know a request answers proves nothing of the request. */
function isKnown(outcomes: Set<string>): boolean {
  return [...outcomes].some((one) => {
    const [kind, outcome] = one.split(' ') as [keyof typeof unknownAnswer, string]
    return outcome !== unknownAnswer[kind]
  })
}

const errnosOf = (outcomes: Set<string>) => new Set([...outcomes].map((one) => one.split(' ')[1]!))

function partsOf(rows: readonly Row[]): Part[] {
  const { accelerator, kernel: kernelRelease, without } = rows[0]!.check
  const host = { accelerator, kernelRelease, without }
  const known = catalogueFor(kernelRelease)
  const outcomes = outcomesOf(rows, known)
  const here = <T extends { where: (typeof absences)[number]['where'] }>(list: readonly T[]) =>
    list.filter(({ where }) => where.some((place) => appliesTo({ where: place, outcome: 0, why: '' }, host)))
  const served = known.documented().filter(({ name }) => isKnown(outcomes.get(name) ?? new Set()))
  const pairs = known.errnoPairs()
  const absent = new Map<string, Reason>(
    here(absences).flatMap(({ ioctls, why, noCode }) =>
      ioctls.map((name) => [name, { why, obstacle: noCode ? 'code' : 'host' }]),
    ),
  )
  const ioctls: Part = {
    what: 'documented x86 ioctls checked',
    all: known.documented().map(({ name }) => name),
    // That a pointer to nothing is refused says that it is there, not what it does.
    reached: new Set(
      served
        .map(({ name }) => name)
        .filter((name) =>
          [...errnosOf(outcomes.get(name)!)].some((one) => one !== 'EFAULT' && one !== 'ENOTTY'),
        ),
    ),
    reasons: absent,
    sometimes: new Set(),
  }
  const servedNames = new Set(served.map(({ name }) => name))
  const pairName = (ioctl: string, code: string) => `${ioctl} ${code}`
  const exits = here(unreachedExits)
  return [
    ioctls,
    {
      what: '(ioctl, errno) pairs hit',
      all: [...new Set(pairs.map(({ ioctl, errno }) => pairName(ioctl, errno.code)))],
      reached: new Set(
        pairs
          .filter(
            ({ ioctl, errno }) => servedNames.has(ioctl) && errnosOf(outcomes.get(ioctl)!).has(errno.code),
          )
          .map(({ ioctl, errno }) => pairName(ioctl, errno.code)),
      ),
      reasons: new Map([
        ...pairs.flatMap(({ ioctl, errno }): [string, Reason][] => {
          const reason = absent.get(ioctl)
          return reason && !servedNames.has(ioctl) ? [[pairName(ioctl, errno.code), reason]] : []
        }),
        ...here(unreachedPairs).flatMap((one) =>
          one.errnos.map((code): [string, Reason] => [pairName(one.ioctl, code), one]),
        ),
      ]),
      sometimes: new Set(),
    },
    {
      what: 'exit reasons of x86 produced',
      all: known.exitReasons.map(({ name }) => name).filter((name) => !otherArchitectures.test(name)),
      reached: new Set(rows.flatMap(({ check }) => check.exits)),
      reasons: new Map(exits.flatMap((one) => one.exits.map((name): [string, Reason] => [name, one]))),
      sometimes: new Set(exits.filter((one) => one.sometimes).flatMap((one) => one.exits)),
    },
  ]
}

/** `32 of 45, of 33 in reach`, with what is out of reach: not documented rightly, or not for this host. */
function figures({ all, reached, reasons }: Part): string {
  const without = (obstacle: Obstacle) =>
    all.filter((one) => !reached.has(one) && reasons.get(one)?.obstacle === obstacle).length
  const [code, host] = [without('code'), without('host')]
  const count = all.filter((one) => reached.has(one)).length
  const out = [
    ...(code > 0 ? [`${code} that no x86 code gives`] : []),
    ...(host > 0 ? [`${host} that need another host`] : []),
  ]
  const words = `${count} of ${all.length}`
  return out.length > 0
    ? `${words}; ${out.join(', ')}: ${count} of ${all.length - code - host} in reach`
    : words
}

/** How much of what the catalogue has for this host's kernel its checks really did. All rows are of one host. */
export function completeness(rows: readonly Row[]): Completeness {
  const lines: string[] = []
  const problems: string[] = []
  for (const part of partsOf(rows)) {
    const { what, all, reached, reasons, sometimes } = part
    const missing = all.filter((one) => !reached.has(one))
    lines.push(`${what}: ${figures(part)}`)
    for (const [why, names] of Map.groupBy(missing, (one) => reasons.get(one)?.why)) {
      lines.push(`  ${why ?? 'NO REASON'}: ${names.join(', ')}`)
      if (why === undefined)
        problems.push(...names.map((name) => `${name}: no check reaches it, and no reason says why`))
    }
    for (const [name, { why }] of reasons) {
      if (all.includes(name) && reached.has(name) && !sometimes.has(name)) {
        problems.push(`${name}: a check reaches it now; take the reason out that says "${why}"`)
      }
    }
  }
  return { lines, problems }
}
