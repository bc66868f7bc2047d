import type { Row } from './rows.ts'

/** Long answers are cut: the whole one is in the JSON report. */
const widest = 48

const cut = (text: string) => {
  const line = text.replace(/\s+/g, ' ')
  return line.length > widest ? `${line.slice(0, widest - 1)}…` : line
}

function aligned(table: string[][]): string[] {
  const widths = table[0]!.map((_, column) => Math.max(...table.map((row) => row[column]!.length)))
  return table.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i]!))
      .join('  ')
      .trimEnd(),
  )
}

/** Checks that came out differently on the hosts, one line each; empty when there is one host only, or no difference. */
export function differences(rows: readonly Row[]): string[] {
  const projects = [...new Set(rows.map(({ project }) => project))]
  if (projects.length < 2) return []
  const byName = Map.groupBy(rows, ({ name }) => name)
  const lines: string[][] = []
  for (const [name, all] of byName) {
    const observed = projects.map((project) => all.find((row) => row.project === project)?.check.observed)
    const seen = observed.filter((one) => one !== undefined)
    if (seen.length < 2 || new Set(seen).size < 2) continue
    lines.push([name, ...observed.map((one) => (one === undefined ? '-' : cut(one)))])
  }
  if (lines.length === 0) return [`no check differs between ${projects.join(', ')}`]
  return [
    `${lines.length} of ${byName.size} checks differ between hosts:`,
    ...aligned([['', ...projects], ...lines]),
  ]
}
