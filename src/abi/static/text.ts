/** Changes between headers as lines for a person. */
import { type ChangeClass, changeClasses } from './diff.ts'
import type { JudgedChange } from './suppressions.ts'

export function changeLine({ kind, name, before, after, reason }: JudgedChange): string {
  const values = before || after ? `: ${before ?? 'absent'} -> ${after ?? 'absent'}` : ''
  return `${kind} ${name}${values} (${reason})`
}

export function countByClass(changes: readonly JudgedChange[]): Record<ChangeClass, number> {
  const counted = changes.filter((change) => change.suppressed === undefined)
  const count = (kind: ChangeClass) => counted.filter((change) => change.class === kind).length
  return { breaking: count('breaking'), additive: count('additive'), info: count('info') }
}

/** Lines by class, each suppression with how many it covers, and a line of counts. */
export function renderChanges(changes: readonly JudgedChange[]): string[] {
  const lines: string[] = []
  for (const kind of changeClasses) {
    const own = changes.filter((change) => change.class === kind && change.suppressed === undefined)
    if (own.length > 0) lines.push(`${kind}:`, ...own.map((change) => `  ${changeLine(change)}`))
  }
  const suppressed = Map.groupBy(
    changes.filter((change) => change.suppressed !== undefined),
    (change) => change.suppressed!,
  )
  if (suppressed.size > 0) {
    lines.push('suppressed:')
    for (const [reason, covered] of suppressed) lines.push(`  ${covered.length}: ${reason}`)
  }
  const { breaking, additive, info } = countByClass(changes)
  lines.push(
    `${breaking} breaking, ${additive} additive, ${info} info, ${[...suppressed.values()].flat().length} suppressed`,
  )
  return lines
}
