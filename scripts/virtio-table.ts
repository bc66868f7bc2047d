/**
 * Writes the second half of docs/virtio.md: what of suites/virtio ran on which kernel, transport and kind of ring, with counts,
 * from vitest's JSON report, and which features are withheld where, from the report and from the suite's own text. What stands
 * before its mark stays as it is.
 * Of two reports of one kernel the later one counts for the files that both have.
 * `npx vitest run suites/virtio --project 'virtio*' --reporter=json --outputFile=6.12.json && node scripts/virtio-table.ts 6.12=6.12.json`
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'

interface Assertion {
  ancestorTitles: string[]
  title: string
  status: string
}
interface Report {
  testResults: { name: string; assertionResults: Assertion[]; projectName?: string }[]
}

const root = resolve(import.meta.dirname, '..')
const suite = join(root, 'suites/virtio')
const reports = process.argv.slice(2)
if (reports.length === 0) {
  console.error('usage: node scripts/virtio-table.ts KERNEL=REPORT.json...')
  process.exit(2)
}

interface Count {
  passed: number
  skipped: number
  failed: number
}

/** What an axis of a script's header says; a script without one has the default. */
function axis(words: readonly string[], name: string, otherwise: string): string {
  const found = words.find((word) => word.startsWith(`${name}=`))
  return found === undefined ? otherwise : found.slice(name.length + 1)
}

/** Of a script whose header has one value of an axis, which its points do not name. */
function headerOf(file: string, name: string, otherwise: string): string {
  if (!file.includes('.tap.')) return otherwise
  const text = readFileSync(join(suite, file), 'utf8')
  return new RegExp(`^#\\s+${name}:\\s*(\\w+)\\s*$`, 'm').exec(text)?.[1] ?? otherwise
}

const counts = new Map<string, Map<string, Count>>()
const columns = new Set<string>()
/** By "KERNEL FILE". */
const latest = new Map<string, Assertion[]>()
/** Points that passed with a feature withheld by itself, as their names say: by "DEVICE FEATURE", then by column. */
const without = new Map<string, Map<string, number>>()
/** Where a feature is withheld, by "DEVICE FEATURE". */
const withheld = new Map<string, Set<string>>()

function note<T>(map: Map<string, T>, key: string, initial: T, change: (value: T) => T): void {
  map.set(key, change(map.get(key) ?? initial))
}
for (const argument of reports) {
  const [kernel, path] = argument.split('=') as [string, string]
  const report = JSON.parse(readFileSync(path, 'utf8')) as Report
  for (const { name, assertionResults } of report.testResults) {
    const file = basename(name)
    latest.set(`${kernel} ${file}`, assertionResults)
  }
}
for (const [key, assertionResults] of latest) {
  const [kernel = '', file = ''] = key.split(' ')
  const transport = headerOf(file, 'transport', 'pci')
  const ring = headerOf(file, 'ring', 'split')
  for (const { ancestorTitles, title, status } of assertionResults) {
    const name = [...ancestorTitles, title].join(' ')
    const words = name.split(/[\s,]+/)
    const column = [kernel, axis(words, 'transport', transport), axis(words, 'ring', ring)].join(' ')
    columns.add(column)
    for (const [, device, feature] of name.matchAll(/\b(\w+) without (\w+)\b/g)) {
      const key = `${device} ${feature}`
      if (status === 'passed') {
        note(without, key, new Map<string, number>(), (row) => row.set(column, (row.get(column) ?? 0) + 1))
      }
      note(withheld, key, new Set<string>(), (files) => files.add(file))
    }
    const row = counts.get(file) ?? new Map<string, Count>()
    counts.set(file, row)
    const count = row.get(column) ?? { passed: 0, skipped: 0, failed: 0 }
    row.set(column, count)
    if (status === 'passed') count.passed++
    else if (status === 'failed') count.failed++
    else count.skipped++
  }
}

function cell(count: Count | undefined): string {
  if (!count) return ''
  const more = [
    ...(count.failed > 0 ? [`${count.failed} failed`] : []),
    ...(count.skipped > 0 ? [`${count.skipped} skipped`] : []),
  ]
  return [String(count.passed), ...more].join(', ')
}

function table(heads: string[], rows: string[][]): string {
  return [heads, heads.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n')
}

const sorted = [...columns].sort()
const totals = sorted.map((column) =>
  cell(
    [...counts.values()].reduce<Count>(
      (sum, row) => {
        const one = row.get(column) ?? { passed: 0, skipped: 0, failed: 0 }
        return {
          passed: sum.passed + one.passed,
          skipped: sum.skipped + one.skipped,
          failed: sum.failed + one.failed,
        }
      },
      { passed: 0, skipped: 0, failed: 0 },
    ),
  ),
)
const points = table(
  ['', ...sorted],
  [
    ...[...counts].sort().map(([file, row]) => [file, ...sorted.map((column) => cell(row.get(column)))]),
    ['all', ...totals],
  ],
)

/** Names that a device can be told to withhold, as its source lists them. */
function namesOf(folder: string): string[] {
  const base = join(root, 'native/virtio', folder)
  const text = readdirSync(base)
    .filter((file) => file.endsWith('.cc') && !file.endsWith('_test.cc'))
    .map((file) => readFileSync(join(base, file), 'utf8'))
    .join('\n')
  return [...text.matchAll(/\{"([a-z0-9_]+)",\s*k[A-Z]\w+\}/g)].map(([, name]) => name!)
}

const devices = readdirSync(join(root, 'native/virtio'), { withFileTypes: true })
  .filter((entry) => entry.isDirectory())
  .map((entry) => entry.name)
const scripts = readdirSync(suite).filter((file) => /\.tap\.sh$|\.test\.ts$/.test(file))
for (const file of scripts) {
  const text = readFileSync(join(suite, file), 'utf8')
  for (const [, type, names] of text.matchAll(
    /type:\s*'?virtio-(\w+)[^}]*?withoutFeatures:\s*\[([^\]]*)\]/gs,
  )) {
    for (const name of names!.split(',').map((one) => one.trim().replace(/'/g, ''))) {
      if (!/^[a-z0-9_]+$/.test(name)) continue
      // All of these have one guest.
      const where = file.startsWith('edges-') ? 'edges-*' : file
      note(withheld, `${type === '9p' ? 'p9' : type} ${name}`, new Set<string>(), (files) => files.add(where))
    }
  }
}
const features = devices.flatMap((device) =>
  [...namesOf(device), 'indirect_desc', 'event_idx'].map((name) => [
    device,
    name,
    ...sorted.map((column) => String(without.get(`${device} ${name}`)?.get(column) ?? '')),
    [...(withheld.get(`${device} ${name}`) ?? ['-'])].sort().join(', '),
  ]),
)
const isWithheld = features.filter((row) => row.at(-1) !== '-').length

const document = join(root, 'docs/virtio.md')
const mark = '<!-- From here on: node scripts/virtio-table.ts -->'
const [before = '', rest] = readFileSync(document, 'utf8').split(mark)
if (rest === undefined) throw new Error(`${document} has no line ${mark}`)

writeFileSync(
  document,
  `${before}${mark}
## Points that passed
By kernel, transport and kind of ring: \`node scripts/virtio-table.ts\`, from vitest's report of a whole run on each kernel.

\`\`\`sh
for k in 6.12 6.1; do
  KVITEST_KERNEL=debian:$k-cloud npx vitest run suites/virtio --project 'virtio*' --reporter=json --outputFile=$k.json
done
npx node scripts/virtio-table.ts 6.12=6.12.json 6.1=6.1.json
\`\`\`

A script says which transports and rings it runs with by an axis of its header; one that says nothing runs on PCI with
split rings.

${points}

## Features that are withheld
A device's own, by the name that \`withoutFeatures\` takes, and the two of the transport: ${isWithheld} of ${features.length} are withheld
somewhere in the suite. The numbers are points that passed with just that one withheld. Native tests and the bare guests'
conformance tests ([conformance.md](conformance.md)) withhold more.

${table(['device', 'feature', ...sorted, 'withheld in'], features)}
`,
)
