/** What is left of machines, counted in processes of their own. */
import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { whyNoKvm } from './testing/bare-guest.ts'

const nothing = {
  machines: 0,
  threads: 0,
  checkpoints: 0,
  rawSessions: 0,
  kvmFds: 0,
  ramFds: 0,
  guestThreads: 0,
  guestMappings: 0,
}

interface Child {
  status: number | null
  signal: string | null
  // biome-ignore lint/suspicious/noExplicitAny: each mode prints its own shape
  report: any
  stderr: string
}

function runChild(mode: string): Promise<Child> {
  const script = join(import.meta.dirname, 'testing/life-child.ts')
  const child = spawn(process.execPath, ['--expose-gc', '--no-warnings', script, mode], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (data) => {
    stdout += data
  })
  child.stderr.on('data', (data) => {
    stderr += data
  })
  return new Promise((resolve) => {
    child.once('close', (status, signal) =>
      resolve({ status, signal, stderr, report: stdout ? JSON.parse(stdout) : undefined }),
    )
  })
}

/** Processes and threads of this machine that a guest left behind. */
function strays(parent: number): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
        return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) === parent
      } catch {
        return false
      }
    })
}

/** A zombie that nobody reaped is dead. */
function isAlive(pid: number): boolean {
  try {
    return !/^State:\s*Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}

const reason = whyNoKvm()

describe.skipIf(reason)(`life of machines${reason ? ` (skipped: ${reason})` : ''}`, () => {
  test('stopped machines leave no thread, fd or mapping', async () => {
    const { status, report } = await runChild('stop')

    expect(report.during).toEqual({
      machines: 10,
      threads: 20,
      checkpoints: 0,
      rawSessions: 0,
      kvmFds: expect.any(Number),
      ramFds: 0,
      guestThreads: 20,
      guestMappings: expect.any(Number),
    })
    expect(report.during.kvmFds).toBeGreaterThanOrEqual(30)
    expect(report.during.guestMappings).toBeGreaterThanOrEqual(10)
    expect(report.after).toEqual(nothing)
    expect(status).toBe(0)
  })

  test('machines that ended by themselves leave nothing without stop()', async () => {
    const { status, report } = await runChild('ended')

    expect(report.after).toEqual(nothing)
    expect(status).toBe(0)
  })

  test('collected handles of running machines leave nothing', async () => {
    const { status, report } = await runChild('collected')

    expect(report.during.machines).toBeGreaterThan(0)
    expect(report.ended).toEqual(Array(5).fill('stopped'))
    expect(report.after).toEqual(nothing)
    expect(status).toBe(0)
  })

  test('collected handles of machines that were never started leave nothing', async () => {
    const { status, report } = await runChild('unstarted')

    expect(report.during.machines).toBeGreaterThan(0)
    expect(report.after).toEqual(nothing)
    expect(status).toBe(0)
  })

  test('an await for an event of a running machine is never collected', async () => {
    const { status, report } = await runChild('awaited')

    expect(report).toEqual({ reason: 'test-exit' })
    expect(status).toBe(0)
  })

  test('a process that exits with running guests ends at once and cleanly', async () => {
    const { status, signal, report, stderr } = await runChild('exit')

    expect(report.during.machines).toBe(3)
    expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' })
    expect(strays(process.pid)).toEqual([])
  })

  test('ended machines do not keep the event loop alive', async () => {
    const { status, report } = await runChild('drain')

    expect(report).toEqual({ reason: 'test-exit' })
    expect(status).toBe(0)
  })

  test('a machine that could not be created leaves nothing', async () => {
    const { status, report } = await runChild('refused')

    expect(report).toEqual({ code: 'ENOENT', after: nothing })
    expect(status).toBe(0)
  })

  test('worker threads terminated with running guests neither crash nor leave anything', async () => {
    const { status, signal, report, stderr } = await runChild('workers')

    expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' })
    expect(report.after).toEqual(nothing)
  })

  test('a thousand forks and resets leave nothing and let nothing grow', async () => {
    const { status, report } = await runChild('forks')

    const { fds, tasks, maps, rssMiB } = report.after
    expect({ fds, tasks }).toEqual({ fds: report.before.fds, tasks: report.before.tasks })
    // The allocators of Node and of libc keep some: a leak of one mapping or one page for each fork would be 1000.
    expect(maps - report.before.maps).toBeLessThan(100)
    expect(rssMiB - report.before.rssMiB).toBeLessThan(16)
    expect(report.after).toMatchObject({ machines: 0, threads: 0, checkpoints: 1, ramFds: 1 })
    expect(report.released).toEqual(nothing)
    expect(status).toBe(0)
  })

  test('collected checkpoints leave nothing', async () => {
    const { status, report } = await runChild('collected-checkpoints')

    expect(report.during.checkpoints).toBeGreaterThan(0)
    expect(report.after).toEqual(nothing)
    expect(status).toBe(0)
  })

  test('worker threads terminated in the middle of checkpoints and forks leave nothing', async () => {
    const { status, signal, report, stderr } = await runChild('fork-workers')

    expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' })
    expect(report.after).toEqual(nothing)
  })

  test('a process that asked for it dies with its parent, running guest and all', async () => {
    const { signal, report } = await runChild('orphan')

    expect(signal).toBe('SIGKILL')
    await expect.poll(() => isAlive(report.pid), { timeout: 5000 }).toBe(false)
  })

  test('a listener that throws is an uncaught exception, and the machine still ends', async () => {
    const { status, report } = await runChild('throwing')

    expect(report).toEqual({ seen: 'listener: end', reason: 'test-exit', after: nothing })
    expect(status).toBe(0)
  })
})

describe.skipIf(reason)(`life of raw sessions${reason ? ` (skipped: ${reason})` : ''}`, () => {
  test('closed sessions leave no thread, fd or mapping, though their vCPUs ran', async () => {
    const { status, report } = await runChild('raw-closed')

    expect(report.during.rawSessions).toBe(5)
    expect(report.during.kvmFds).toBeGreaterThanOrEqual(15)
    expect(report.during.guestThreads).toBeGreaterThanOrEqual(15)
    expect(report.refused).toBe('ECANCELED')
    expect(report.after).toEqual(nothing)
    expect(status).toBe(0)
  })

  test('collected sessions leave nothing', async () => {
    const { status, report } = await runChild('raw-collected')

    expect(report.during.kvmFds).toBeGreaterThan(0)
    expect(report.after).toEqual(nothing)
    expect(status).toBe(0)
  })

  test('a process that exits while a vCPU runs ends at once and cleanly', async () => {
    const { status, signal, stderr } = await runChild('raw-exit')

    expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' })
  })

  test('worker threads terminated while vCPUs run neither crash nor leave anything', async () => {
    const { status, signal, report, stderr } = await runChild('raw-workers')

    expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' })
    expect(report.after).toEqual(nothing)
  })
})
