/**
 * A STAND-IN for a host, for the tests of src/vitest only: its "guests" are processes of this machine that run the
 * script with sh. It boots nothing and proves nothing about guests; it lets the tests drive the transform, the
 * runner and the reporters through real `vitest run` processes where no KVM is.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { appendFileSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { admitByBudget } from '../../guest/admission.ts'
import type { ScriptRecord } from '../../guest/record.ts'
import type { BootOptions, Guest, GuestEnd, Host, RunOptions, RunResult } from '../../guest/types.ts'
import type { HostInfo } from '../../host/machine-host.ts'
import { KvitestError } from '../../native/error.ts'
import { TapStream } from '../../tap/stream.ts'
import { allowancesAt } from '../../verdict/expectations.ts'
import { judge, type ScriptEvidence } from '../../verdict/judge.ts'
import type { Judgement } from '../../verdict/types.ts'

/** A script that exits with this status makes its stand-in guest end as panicked. */
const PANIC_STATUS = 99
/** And with this one as if its kernel had printed SPLAT. */
const SPLAT_STATUS = 98
const SPLAT = '[    1.000000] WARNING: CPU: 0 PID: 1 at drivers/stand-in.c:1 stand_in+0x0/0x1'

const LIBRARY = fileURLToPath(new URL('../../../native/agent/tap.sh', import.meta.url))

/** uname -r of every stand-in guest. */
const RELEASE = '6.12.0-stand-in'

const INFO: HostInfo = {
  name: 'process-host',
  kernelRelease: '0.0-stand-in',
  accelerator: 'software',
  cpus: 1,
  memory: 2 ** 30,
  kvm: { apiVersion: 12, maxVcpus: 1 },
}

export async function openHost(): Promise<Host> {
  const create =
    (how: 'boot' | 'fork') =>
    async (options: BootOptions = {}) => {
      // The tests count the guests of a run by these lines.
      const log = process.env.STAND_IN_LOG
      if (log) appendFileSync(log, `${how} ${options.name} ${options.kernel}\n`)
      if (options.kernel === 'missing') {
        throw new KvitestError('kernel missing', 'no such kernel', { hint: 'name one that exists' })
      }
      return standInGuest(options, log, how)
    }
  const begin: typeof create = (how) => async (options) => {
    // Only where the tests give it a budget of its own: others must not wait for who else works on this machine.
    if (!process.env.KVITEST_BUDGET_CPUS) return create(how)(options)
    const { name = 'stand-in', cpus = 1, memory = 2 ** 28 } = options ?? {}
    return await admitByBudget({ guest: name, cpus, memory: Number(memory) }, () => create(how)(options))
  }
  const [boot, fork] = [begin('boot'), begin('fork')]
  const restore = () => Promise.reject(new Error('a stand-in host restores nothing'))
  const kvm = () => Promise.reject(new Error('a stand-in host has no KVM'))
  const kernelFacts = () => Promise.reject(new Error('a stand-in host has no kernel'))
  const close = async () => {}
  return { info: INFO, boot, fork, restore, kvm, kernelFacts, close, [Symbol.asyncDispose]: close }
}

function standInGuest(options: BootOptions, log: string | undefined, how: 'boot' | 'fork'): Guest {
  let child: ChildProcess | undefined
  const scripts: ScriptRecord[] = []
  let end: GuestEnd = { verdict: 'pass', reason: 'the script passed', evidence: [], machine: undefined }
  const notHere = () => Promise.reject(new Error('a stand-in guest cannot do this'))
  let ended: (value: GuestEnd) => void = () => {}
  const endPromise = new Promise<GuestEnd>((resolve) => {
    ended = resolve
  })

  async function run(script: string, runOptions: RunOptions = {}): Promise<RunResult> {
    const start = performance.now()
    const tap = new TapStream({ onPoint: runOptions.onPoint, onDiagnostic: runOptions.onDiagnostic })
    // The library that every guest has lies elsewhere here.
    const text = readFileSync(script, 'utf8').replaceAll('/lib/kvitest/tap.sh', LIBRARY)
    child = spawn('sh', text.includes(LIBRARY) ? ['-c', text, script] : [script], {
      env: { ...process.env, ...runOptions.env },
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let stdout = ''
    let stderr = ''
    child.stdout!.on('data', (data: Buffer) => {
      stdout += data
      tap.write(data)
    })
    child.stderr!.on('data', (data: Buffer) => {
      stderr += data
    })
    let timedOut = false
    const timer = setTimeout(
      () => {
        timedOut = true
        kill()
      },
      runOptions.timeout ?? 2 ** 30,
    )
    const [status, signal] = await new Promise<[number | null, string | null]>((resolve) => {
      child!.on('close', (code, name) => resolve([code, name]))
    })
    clearTimeout(timer)
    scripts.push({ name: 'script', stdout, stderr })
    if (status === PANIC_STATUS) {
      end = { ...end, verdict: 'panic', reason: 'Kernel panic - not syncing: stand-in', evidence: ['splat'] }
    }
    const tapSummary = tap.end()
    if (status === SPLAT_STATUS) {
      end = { ...judged(options, { status, signal, timedOut, tap: tapSummary }), machine: undefined }
    }
    return {
      status: status === SPLAT_STATUS ? 0 : status,
      signal,
      timedOut,
      stdout,
      stderr,
      duration: performance.now() - start,
      tap: tapSummary,
    }
  }

  function kill(): void {
    if (child?.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
    try {
      process.kill(-child.pid, 'SIGKILL')
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
    }
  }

  const stop = async () => {
    kill()
    if (log) appendFileSync(log, `stop ${options.name}\n`)
    ended(end)
    return end
  }
  return {
    name: options.name ?? 'stand-in',
    kernel: { name: options.kernel ?? 'stand-in', release: '0.0', image: '/dev/null', hash: '0' },
    kernelRelease: RELEASE,
    resets: 0,
    faultVmm: notHere,
    host: INFO,
    console: {
      text: () => 'console of the stand-in\n',
      lines: () => ['console of the stand-in'],
      waitFor: notHere,
      onLine: () => () => {},
    },
    ended: endPromise,
    bootTime: 1,
    forkedFrom: how === 'fork' ? { name: 'stand-in', bootTime: 1 } : undefined,
    spawn: notHere,
    exec: notHere,
    run,
    writeFile: notHere,
    port: () => {
      throw new Error('a stand-in guest has no ports')
    },
    disk: () => {
      throw new Error('a stand-in guest has no disks')
    },
    inspect: async () => [],
    vsock: () => {
      throw new Error('no vsock here')
    },
    setLink: async () => {},
    unplug: async () => {},
    scsi: () => {
      throw new Error('a stand-in guest has no virtio-scsi')
    },
    balloon: () => {
      throw new Error('a stand-in guest has no balloon')
    },
    privateMemory: async () => 0,
    checkpoint: notHere,
    fork: notHere,
    reset: notHere,
    record: () => ({
      name: options.name ?? 'stand-in',
      kernel: { name: options.kernel ?? 'stand-in', release: '0.0', image: '/dev/null', hash: '0' },
      host: INFO,
      console: '        1  console of the stand-in\n',
      agent: '',
      scripts,
      vcpus: [],
    }),
    saveCore: notHere,
    stop,
    [Symbol.asyncDispose]: async () => void (await stop()),
  }
}

/** The real judge, on a made-up kernel log. */
function judged(
  { name = 'stand-in', allowedSplats = [] }: BootOptions,
  result: Omit<ScriptEvidence, 'name'>,
): Judgement {
  const place = { kernelRelease: RELEASE, host: INFO.name }
  return judge({
    phase: 'shutdown',
    stopped: true,
    console: SPLAT,
    handshake: true,
    scripts: [{ ...result, name, status: 0 }],
    allowances: allowancesAt(allowedSplats, place, new Date()),
  })
}
