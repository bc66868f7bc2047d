/** Differences between profiles for a person and for a review. */
import { attributionText } from './attribute.ts'
import { type ProfileChange, type ProfileClass, profileClasses } from './diff.ts'
import type { Value } from './session.ts'

export type Counts = Record<ProfileClass, number>

export function countByClass(changes: readonly ProfileChange[]): Counts {
  return Object.fromEntries(
    profileClasses.map((kind) => [kind, changes.filter((change) => change.class === kind).length]),
  ) as Counts
}

export function countsLine(changes: readonly ProfileChange[]): string {
  const counts = countByClass(changes)
  return profileClasses.map((kind) => `${counts[kind]} ${kind}`).join(', ')
}

/** Bits that came and went, of masks. */
function bitsText(before: Value, after: Value): string {
  if (typeof before !== 'string' || typeof after !== 'string') return ''
  if (![before, after].every((value) => /^0x[0-9a-f]+$/.test(value))) return ''
  const [was, is] = [BigInt(before), BigInt(after)]
  const bitsOf = (mask: bigint) =>
    Array.from({ length: 64 }, (_, i) => i).filter((i) => (mask >> BigInt(i)) & 1n)
  const [gained, lost] = [bitsOf(is & ~was), bitsOf(was & ~is)]
  if (gained.length + lost.length > 4) return ''
  return ` [${[...gained.map((bit) => `+bit ${bit}`), ...lost.map((bit) => `-bit ${bit}`)].join(' ')}]`
}

export function valuesText({ before, after }: ProfileChange): string {
  const bits = before !== undefined && after !== undefined ? bitsText(before, after) : ''
  return `${before ?? 'absent'} -> ${after ?? 'absent'}${bits}`
}

function line(change: ProfileChange): string {
  const { key, reason, tools, attribution } = change
  const used = tools.length > 0 ? `; used by ${tools.join(', ')}` : ''
  const factor = attribution === undefined ? '' : `; ${attributionText(attribution)}`
  return `${key}: ${valuesText(change)} (${reason}${used}${factor})`
}

/** Lines by class, the worst first, and a line of counts. What belongs to the environment is only counted, unless `showAll`. */
export function renderHuman(
  changes: readonly ProfileChange[],
  options: { showAll?: boolean } = {},
): string[] {
  const lines = profileClasses.flatMap((kind) => {
    const own = changes.filter((change) => change.class === kind)
    if (own.length === 0 || (kind === 'environment' && !options.showAll)) return []
    return [`${kind}:`, ...own.map((change) => `  ${line(change)}`)]
  })
  return [...lines, countsLine(changes)]
}

/** A table a class. */
export function renderMarkdown(changes: readonly ProfileChange[], title: string): string[] {
  const hasFactors = changes.some((change) => change.attribution !== undefined)
  const cell = (text: string) => text.replaceAll('|', '\\|')
  const row = (cells: string[]) => `| ${cells.map(cell).join(' | ')} |`
  const tables = profileClasses.flatMap((kind) => {
    const own = changes.filter((change) => change.class === kind)
    if (own.length === 0) return []
    const head = ['key', 'before -> after', 'why', 'used by', ...(hasFactors ? ['explained by'] : [])]
    return [
      '',
      `### ${kind}: ${own.length}`,
      row(head),
      `|${'---|'.repeat(head.length)}`,
      ...own.map((change) => {
        const factor = change.attribution ? attributionText(change.attribution) : ''
        const cells = [`\`${change.key}\``, valuesText(change), change.reason, change.tools.join(', ')]
        return row([...cells, ...(hasFactors ? [factor] : [])])
      }),
    ]
  })
  return [`## ${title}`, '', countsLine(changes), ...tables]
}
