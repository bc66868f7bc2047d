/**
 * suites/kvm, whole, on one host after the other: the command with all that it starts, and its checks alone.
 * `npm run bench -- kvm [--host local] [--host 'lab 6.12'] [--runs 1]`; a host is what its vitest project is named by.
 */
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { KvitestError } from '../src/native/error.ts'
import { printTable, type Row, timed } from './table.ts'

const root = resolve(import.meta.dirname, '..')

/** Of vitest's JSON report. */
interface Report {
  numPassedTests: number
  numFailedTests: number
  testResults: { name: string; startTime: number; endTime: number }[]
}

interface Run {
  seconds: number
  report: Report
}

function vitest(args: string[]): Promise<string> {
  const program = join(root, 'node_modules/vitest/vitest.mjs')
  return new Promise((done) => {
    // What it ended with is in the report; its last words are kept for the case that there is none.
    execFile(
      process.execPath,
      [program, ...args],
      { cwd: root, env: { ...process.env, NO_COLOR: '1' }, maxBuffer: 1 << 26 },
      (_, __, stderr) => done(stderr),
    )
  })
}

async function runOn(host: string, folder: string): Promise<Run> {
  const outputFile = join(folder, 'report.json')
  await rm(outputFile, { force: true })
  const { value: words, ms } = await timed(() =>
    vitest(['run', '--project', `kvm (${host})`, '--reporter=json', `--outputFile=${outputFile}`]),
  )
  const report = await readFile(outputFile, 'utf8').then(
    (text) => JSON.parse(text) as Report,
    () => undefined,
  )
  if (!report || report.numPassedTests === 0 || report.numFailedTests > 0) {
    const detail = report
      ? `${report.numFailedTests} checks failed`
      : words.split('\n').find((line) => /^\w*Error: /.test(line))
    throw new KvitestError('bench of suites/kvm', `${host}: ${detail || 'no report'}`, {
      hint: `npx vitest run --project 'kvm (${host})' shows them`,
    })
  }
  return { seconds: ms / 1000, report }
}

export async function bench(argv: string[]): Promise<void> {
  const { values } = parseArgs({
    args: argv,
    options: {
      host: { type: 'string', multiple: true, default: ['local'] },
      runs: { type: 'string', default: '1' },
    },
  })
  const folder = await mkdtemp(join(tmpdir(), 'kvitest-bench-'))
  try {
    for (const host of values.host) {
      const command: Row = { what: 'whole command', values: [], unit: 's' }
      const checks: Row = { what: 'first check to last', values: [], unit: 's' }
      const files = new Map<string, Row>()
      let count = 0
      for (let run = 0; run < Number(values.runs); run++) {
        const { seconds, report } = await runOn(host, folder)
        count = report.numPassedTests
        command.values.push(seconds)
        const begin = Math.min(...report.testResults.map((file) => file.startTime))
        checks.values.push((Math.max(...report.testResults.map((file) => file.endTime)) - begin) / 1000)
        for (const { name, startTime, endTime } of report.testResults) {
          const what = name.slice(root.length + 1)
          const row = files.get(what) ?? { what, values: [], unit: 's' }
          files.set(what, row)
          row.values.push((endTime - startTime) / 1000)
        }
      }
      const slowest = [...files.values()].sort((a, b) => Math.max(...b.values) - Math.max(...a.values))
      printTable(`suites/kvm on ${host}: ${count} checks`, [command, checks, ...slowest.slice(0, 3)])
    }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
