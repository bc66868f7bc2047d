/**
 * Processes a test starts and later counts: a marker in their environment is inherited by every descendant,
 * also by those that were re-parented, so nothing that is left behind can hide.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

export const root = resolve(import.meta.dirname, '../..')
const variable = 'KVITEST_TEST_MARK'

export interface Finished {
  status: number | null
  signal: string | null
  stdout: string
  stderr: string
}

export interface MarkedProcess {
  child: ChildProcess
  /** Everything printed so far, stdout and stderr apart. */
  output: { stdout: string; stderr: string }
  /** Resolves when the text appears on stdout or stderr; rejects when the process ends first. */
  until(pattern: RegExp, timeout?: number): Promise<void>
  finished: Promise<Finished>
  /** Processes of this family that are alive, as `pid command`. */
  alive(): string[]
  /** Waits until none is alive; returns those left after `timeout` ms. */
  survivors(timeout?: number): Promise<string[]>
}

function processesWith(mark: string): string[] {
  const needle = `${variable}=${mark}\0`
  return readdirSync('/proc')
    .filter((pid) => /^\d+$/.test(pid))
    .flatMap((pid) => {
      try {
        if (!`${readFileSync(`/proc/${pid}/environ`, 'latin1')}\0`.includes(needle)) return []
        const state = /^State:\s+(\S)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]
        if (state === 'Z' || state === 'X') return []
        const command = readFileSync(`/proc/${pid}/cmdline`, 'latin1').replaceAll('\0', ' ').trim()
        return [`${pid} ${command.slice(0, 120)}`]
      } catch {
        return [] // ended while we looked
      }
    })
}

export interface MarkedOptions {
  cwd?: string
  env?: NodeJS.ProcessEnv
  /** All of stdin; otherwise it stays open. */
  input?: string
  /** Labs of its own instead of those of this run: for tests of what becomes of them. */
  ownLabs?: boolean
}

export function startMarked(command: string[], options: MarkedOptions = {}): MarkedProcess {
  const mark = randomUUID()
  const [program, ...args] = command
  const child = spawn(program!, args, {
    cwd: options.cwd ?? root,
    env: {
      ...process.env,
      PATH: `${resolve(root, 'node_modules/.bin')}:${process.env.PATH}`,
      // The outer vitest's own variables must not steer an inner one.
      VITEST: undefined,
      VITEST_POOL_ID: undefined,
      VITEST_WORKER_ID: undefined,
      NODE_ENV: undefined,
      ...(options.ownLabs ? { KVITEST_LAB_SOCKET: undefined } : {}),
      NO_COLOR: '1',
      ...options.env,
      [variable]: mark,
    },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  const output = { stdout: '', stderr: '' }
  const watchers = new Set<() => void>()
  for (const name of ['stdout', 'stderr'] as const) {
    child[name]?.setEncoding('utf8').on('data', (text: string) => {
      output[name] += text
      for (const watcher of watchers) watcher()
    })
  }
  if (options.input !== undefined) child.stdin?.end(options.input)
  const finished = new Promise<Finished>((done, failed) => {
    child.once('error', failed)
    child.once('close', (status, signal) => done({ status, signal, ...output }))
  })
  const alive = () => processesWith(mark)

  return {
    child,
    output,
    finished,
    alive,
    async until(pattern, timeout = 120_000) {
      await new Promise<void>((done, failed) => {
        const timer = setTimeout(
          () => failed(new Error(`no ${pattern} within ${timeout} ms:\n${output.stdout}\n${output.stderr}`)),
          timeout,
        )
        const settle = (settled: () => void) => {
          clearTimeout(timer)
          watchers.delete(look)
          settled()
        }
        const look = () => {
          if (pattern.test(output.stdout) || pattern.test(output.stderr)) settle(done)
        }
        watchers.add(look)
        look()
        finished.then(
          () =>
            settle(() => failed(new Error(`ended before ${pattern}:\n${output.stdout}\n${output.stderr}`))),
          failed,
        )
      })
    },
    async survivors(timeout = 5000) {
      const deadline = Date.now() + timeout
      while (alive().length > 0 && Date.now() < deadline) await sleep(50)
      return alive()
    },
  }
}

/** A shell command line on a real pseudo-terminal (util-linux script); what is written to stdin is typed. */
export function startOnTerminal(commandLine: string, options: MarkedOptions = {}): MarkedProcess {
  const env = { TERM: 'xterm', ...options.env }
  return startMarked(['script', '-qefc', commandLine, '/dev/null'], { ...options, env })
}
