/** Measurements as a table a person reads and a document quotes. */
export interface Row {
  what: string
  /** One value a run, in `unit`. */
  values: number[]
  unit: string
}

function quantile(sorted: number[], q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))]!
}

function figure(value: number): string {
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3)
}

export function printTable(title: string, rows: Row[]): void {
  console.log(`\n${title}`)
  console.log('| what | unit | runs | min | p50 | p99 | max |')
  console.log('|---|---|---|---|---|---|---|')
  for (const { what, values, unit } of rows) {
    const sorted = values.toSorted((a, b) => a - b)
    const cells = [sorted[0]!, quantile(sorted, 0.5), quantile(sorted, 0.99), sorted.at(-1)!].map(figure)
    console.log(`| ${what} | ${unit} | ${sorted.length} | ${cells.join(' | ')} |`)
  }
}

/** Milliseconds that `work` takes. */
export async function timed<T>(work: () => Promise<T>): Promise<{ value: T; ms: number }> {
  const startedAt = performance.now()
  const value = await work()
  return { value, ms: performance.now() - startedAt }
}
