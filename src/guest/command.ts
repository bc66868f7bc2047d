import { KvitestError } from '../native/error.ts'
import { TapStream } from '../tap/stream.ts'
import type { AgentClient } from './agent/client.ts'
import { BoundedBytes } from './bounded-bytes.ts'
import type { ExecOptions, ExecResult, GuestProcess, RunOptions, RunResult } from './types.ts'

/** Bytes kept of one output of one command. */
const outputLimit = 64 * 1024 * 1024
/** Milliseconds the agent may take to report a command that is over its time, beyond the killing itself. */
const overdueGrace = 6000

/**
 * Runs a command to its end. `stillAlive` is asked when the command is over its time and the agent has not reported
 * its end: true gives the command up, false leaves it to the guest's own end.
 */
export async function execute(
  agent: AgentClient,
  argv: string[],
  options: ExecOptions,
  stillAlive: () => Promise<boolean>,
): Promise<ExecResult> {
  const { signal, timeout, stdin } = options
  signal?.throwIfAborted()
  const started = performance.now()
  const stdout = new BoundedBytes(outputLimit)
  const stderr = new BoundedBytes(outputLimit)
  const process = await agent.spawn(argv, {
    ...(options.env ? { env: options.env } : {}),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(timeout ? { timeout } : {}),
    stdin: stdin !== undefined,
    onStdout: (data) => {
      stdout.push(data)
      options.onStdout?.(data)
    },
    onStderr: (data) => {
      stderr.push(data)
      options.onStderr?.(data)
    },
  })
  const overdue = Promise.withResolvers<Awaited<GuestProcess['exited']>>()
  const giveUp = async () => {
    if (!(await stillAlive())) return
    // Alive, but the command cannot be killed: it sleeps in the kernel.
    overdue.resolve({ status: null, signal: null, timedOut: true, duration: performance.now() - started })
  }
  const timer = timeout ? setTimeout(() => void giveUp(), timeout + overdueGrace) : undefined
  const onAbort = () => void process.kill('SIGKILL').catch(() => {})
  signal?.addEventListener('abort', onAbort, { once: true })
  // While the command was on its way.
  if (signal?.aborted) onAbort()
  try {
    // A command need not read all it is given.
    if (stdin !== undefined) feed(process, stdin)
    const exit = await Promise.race([process.exited, overdue.promise])
    signal?.throwIfAborted()
    return { ...exit, stdout: stdout.toString(), stderr: stderr.toString() }
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', onAbort)
  }
}

async function feed(process: GuestProcess, stdin: Uint8Array | string): Promise<void> {
  try {
    await process.writeStdin(stdin)
    await process.closeStdin()
  } catch {
    // The command has ended, or the guest has; its exit says so.
  }
}

/** Runs a script that is in the guest, by `execute`; reads its TAP live and keeps what it prints in `record`. */
export async function runScript(
  { name, data }: { name: string; data: Buffer },
  options: RunOptions,
  record: Record<'stdout' | 'stderr', BoundedBytes>,
  execute: (options: ExecOptions) => Promise<ExecResult>,
): Promise<RunResult> {
  const tap = new TapStream({ onPoint: options.onPoint, onDiagnostic: options.onDiagnostic })
  try {
    const result = await execute({
      ...options,
      onStdout: (bytes) => {
        tap.write(bytes)
        record.stdout.push(bytes)
        options.onStdout?.(bytes)
      },
      onStderr: (bytes) => {
        record.stderr.push(bytes)
        options.onStderr?.(bytes)
      },
    })
    return { ...result, tap: tap.end() }
  } catch (error) {
    throw explainScript(error, name, data)
  } finally {
    // Points that the guest's end cut off still settle.
    tap.end()
  }
}

/** The kernel's ENOENT for a script means its interpreter. */
function explainScript(error: unknown, name: string, data: Buffer): unknown {
  if (!(error instanceof KvitestError) || error.code !== 'ENOENT') return error
  const interpreter = data.toString('latin1', 2, data.indexOf(10)).trim().split(/\s/)[0]
  return new KvitestError(`run ${name}`, `the guest has no interpreter ${interpreter}`, {
    code: 'ENOENT',
    hint: "put it there with the option 'files', or use /bin/sh",
    infra: false,
    cause: error,
  })
}
