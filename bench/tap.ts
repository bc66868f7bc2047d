/** Points a second through the TAP stream, in one script of 1k, 10k and 100k points. */
import { TapStream } from '../src/tap/stream.ts'
import { printTable, type Row, timed } from './table.ts'

export async function bench(): Promise<void> {
  const rows: Row[] = []
  for (const count of [1_000, 10_000, 100_000]) {
    const row: Row = { what: `${count} points`, values: [], unit: 'points/s' }
    for (let run = 0; run < 3; run++) {
      const { ms } = await timed(async () => {
        const stream = new TapStream({})
        stream.write('TAP version 14\n')
        for (let id = 1; id <= count; id++) stream.write(`ok ${id} - point number ${id}\n`)
        stream.write(`1..${count}\n`)
        const { points, problems } = stream.end()
        if (points.length !== count || problems.length > 0) throw new Error(problems.join('; '))
      })
      row.values.push(count / (ms / 1000))
    }
    rows.push(row)
  }
  printTable('TAP stream', rows)
}
