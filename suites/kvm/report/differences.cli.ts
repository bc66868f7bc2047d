/** Prints where hosts differ: `node suites/kvm/report/differences.cli.ts RESULTS.json...`, of `vitest --reporter=json`. */
import { readFileSync } from 'node:fs'
import { differences } from './differences.ts'
import { rowsOf } from './rows.ts'

const files = process.argv.slice(2)
if (files.length === 0) {
  console.error('usage: node suites/kvm/report/differences.cli.ts RESULTS.json...')
  process.exit(2)
}
try {
  const rows = files.flatMap((file) => {
    const own = rowsOf(readFileSync(file, 'utf8'))
    if (own.length === 0) throw new Error(`${file}: no behaviour check in it`)
    return own
  })
  console.log(differences(rows).join('\n'))
} catch (error) {
  console.error(`where hosts differ: ${(error as Error).message}`)
  process.exit(1)
}
