/** Known changes between headers, from a file that gives a reason for each. */
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'
import { KvitestError } from '../../native/error.ts'
import { type ChangeClass, changeClasses, type HeaderChange } from './diff.ts'

export interface Suppression {
  /** Names of changes; `*` stands for anything. */
  names: string[]
  class?: ChangeClass
  reason: string
}

/** A change, with the reason not to count it where there is one. */
export type JudgedChange = HeaderChange & { suppressed?: string }

export const defaultSuppressions = fileURLToPath(new URL('suppressions.yaml', import.meta.url))

function check(entry: unknown, place: string): Suppression {
  const wrong = (detail: string) =>
    new KvitestError('read the suppressions', `${place}: ${detail}`, {
      code: 'EINVAL',
      hint: 'an entry has names (a list), reason and perhaps class: breaking, additive or info',
      infra: false,
    })
  if (typeof entry !== 'object' || entry === null) throw wrong('no entry')
  const { names, reason, class: kind, ...rest } = entry as Record<string, unknown>
  const extra = Object.keys(rest)[0]
  if (extra !== undefined) throw wrong(`${extra}: not known`)
  if (!Array.isArray(names) || names.length === 0 || names.some((name) => typeof name !== 'string'))
    throw wrong('no names')
  if (typeof reason !== 'string' || reason.trim() === '') throw wrong('no reason')
  const known = changeClasses.find((one) => one === kind)
  if (kind !== undefined && known === undefined) throw wrong(`class ${kind}`)
  return { names: names as string[], reason, ...(known ? { class: known } : {}) }
}

/** Rejects with a KvitestError that names the entry when one is not well formed. */
export async function readSuppressions(file = defaultSuppressions): Promise<Suppression[]> {
  let entries: unknown
  try {
    entries = parse(await readFile(file, 'utf8'))
  } catch (error) {
    const detail = (error as NodeJS.ErrnoException).code ?? (error as Error).message.split('\n')[0]
    throw new KvitestError('read the suppressions', `${file}: ${detail}`, {
      code: (error as NodeJS.ErrnoException).code ?? 'EINVAL',
      hint: 'give a YAML file with a list',
      infra: false,
      cause: error,
    })
  }
  if (entries === null || entries === undefined) return []
  if (!Array.isArray(entries)) return [check(undefined, file)]
  return entries.map((entry, index) => check(entry, `${file}: entry ${index + 1}`))
}

function patternOf(name: string): RegExp {
  const escaped = name.split('*').map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&'))
  // A structure's name stands for its fields too.
  return new RegExp(`^${escaped.join('.*')}(\\..*)?$`)
}

export function judge(
  changes: readonly HeaderChange[],
  suppressions: readonly Suppression[],
): JudgedChange[] {
  const compiled = suppressions.map((one) => ({ ...one, patterns: one.names.map(patternOf) }))
  return changes.map((change) => {
    const found = compiled.find(
      (one) =>
        (one.class === undefined || one.class === change.class) &&
        one.patterns.some((pattern) => pattern.test(change.name)),
    )
    return found ? { ...change, suppressed: found.reason } : change
  })
}
