/**
 * Points a second of one script of 1k, 10k and 100k points: through the TAP stream alone, then from a real guest through
 * a real vitest to the JUnit file, with the most memory that the worker and the main process had.
 * `npm run bench -- tap`.
 */
import { spawn } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { TapStream } from '../src/tap/stream.ts'
import { printTable, type Row } from './table.ts'

const root = resolve(import.meta.dirname, '..')
const sizes = [1_000, 10_000, 100_000]

function streamRow(count: number): Row {
  const row: Row = { what: `${count} points`, values: [], unit: 'points/s' }
  for (let run = 0; run < 3; run++) {
    const started = performance.now()
    const stream = new TapStream({})
    stream.write('TAP version 14\n')
    for (let id = 1; id <= count; id++) stream.write(`ok ${id} - point number ${id}\n`)
    stream.write(`1..${count}\n`)
    const { points, problems } = stream.end()
    if (points.length !== count || problems.length > 0) throw new Error(problems.join('; '))
    row.values.push(count / ((performance.now() - started) / 1000))
  }
  return row
}

/** The script is as fast as a guest can be: what is measured is the way from its stdout to the report. */
const script = (count: number) => `#!/bin/sh
# timeout: 10m
awk 'BEGIN { for (i = 1; i <= ${count}; i++) print "ok " i " - point number " i; print "1..${count}" }'
`

const config = `
import { kvitest } from 'kvitest/vitest'
import { defineConfig } from 'vitest/config'
export default defineConfig({ plugins: [kvitest()], test: { maxWorkers: 1 } })
`

interface VitestRun {
  /** Milliseconds of the whole command. */
  ms: number
  /** Most MiB that any process of the run held, by what it is. */
  memory: { worker: number; main: number }
  junitPoints: number
}

async function peakMiB(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
  return Number(/^VmHWM:\s*(\d+)/m.exec(status)?.[1] ?? 0) / 1024
}

async function childrenOf(pid: number): Promise<number[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '')
  return text.split(' ').filter(Boolean).map(Number)
}

async function runVitest(folder: string, file: string): Promise<VitestRun> {
  const child = spawn(
    process.execPath,
    [join(root, 'node_modules/vitest/vitest.mjs'), 'run', '--root', folder, file],
    {
      stdio: ['ignore', 'ignore', 'inherit'],
    },
  )
  const memory = { worker: 0, main: 0 }
  const started = performance.now()
  const ended = new Promise<number | null>((done) => child.once('close', done))
  const watch = setInterval(async () => {
    memory.main = Math.max(memory.main, await peakMiB(child.pid!))
    for (const pid of await childrenOf(child.pid!)) {
      const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
      if (command.includes('qemu')) continue
      memory.worker = Math.max(memory.worker, await peakMiB(pid))
    }
  }, 100)
  const status = await ended
  clearInterval(watch)
  if (status !== 0) throw new Error(`vitest run ${file} ended with ${status}`)
  const junit = await readFile(join(folder, 'test-results/junit.xml'), 'utf8')
  return { ms: performance.now() - started, memory, junitPoints: junit.split('<testcase ').length - 2 }
}

async function vitestRows(): Promise<Row[]> {
  const folder = await mkdtemp(join(tmpdir(), 'kvitest-bench-'))
  try {
    await mkdir(join(folder, 'node_modules'))
    await symlink(root, join(folder, 'node_modules/kvitest'))
    await symlink(join(root, 'node_modules/vitest'), join(folder, 'node_modules/vitest'))
    await writeFile(join(folder, 'package.json'), '{ "type": "module" }')
    await writeFile(join(folder, 'vitest.config.ts'), config)
    const rows: Row[] = []
    // The first makes the checkpoint and the saved lab that the others start from.
    for (const count of [1, ...sizes]) {
      const file = `points-${count}.tap.sh`
      await writeFile(join(folder, file), script(count))
      const { ms, memory, junitPoints } = await runVitest(folder, file)
      if (junitPoints !== count) throw new Error(`${junitPoints} of ${count} points in the JUnit file`)
      if (count === 1) continue
      rows.push({ what: `${count} points: whole run`, values: [ms / 1000], unit: 's' })
      rows.push({ what: '  the same a second', values: [count / (ms / 1000)], unit: 'points/s' })
      rows.push({ what: '  most memory of the worker', values: [memory.worker], unit: 'MiB' })
      rows.push({ what: '  most memory of the main process', values: [memory.main], unit: 'MiB' })
    }
    return rows
  } finally {
    await rm(folder, { recursive: true })
  }
}

export async function bench(): Promise<void> {
  printTable('TAP stream', sizes.map(streamRow))
  printTable('from a guest through vitest to the JUnit file', await vitestRows())
}
