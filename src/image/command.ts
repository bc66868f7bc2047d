import { spawn } from 'node:child_process'
import { KvitestError } from '../native/error.ts'

export interface CommandResult {
  status: number | null
  signal: NodeJS.Signals | null
  stdout: Buffer
  stderr: string
}

export interface CommandOptions {
  cwd?: string
  env?: NodeJS.ProcessEnv
  input?: Uint8Array
  /** Debian package that has the command, for the error when it is missing. */
  package?: string
}

/**
 * Runs a program to its end and returns what it said, whatever its status. Rejects with a KvitestError only when
 * the program cannot be started.
 */
export function runCommand(argv: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
  const [program, ...rest] = argv
  if (program === undefined) return Promise.reject(new TypeError('empty command'))
  const { promise, resolve, reject } = Promise.withResolvers<CommandResult>()
  const child = spawn(program, rest, {
    cwd: options.cwd,
    env: options.env ?? { ...process.env, LC_ALL: 'C' },
    stdio: [options.input ? 'pipe' : 'ignore', 'pipe', 'pipe'],
  })
  const stdout: Buffer[] = []
  const stderr: Buffer[] = []
  child.stdout?.on('data', (chunk: Buffer) => stdout.push(chunk))
  child.stderr?.on('data', (chunk: Buffer) => stderr.push(chunk))
  child.on('error', (error: NodeJS.ErrnoException) => {
    reject(
      new KvitestError(`run ${program}`, error.code === 'ENOENT' ? 'command not found' : error.message, {
        code: error.code,
        hint: options.package ? `install the package ${options.package}, or run npm run setup` : undefined,
        cause: error,
      }),
    )
  })
  child.on('close', (status, signal) => {
    resolve({ status, signal, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr).toString() })
  })
  // A program that ends before it has read everything says so by its status, not by EPIPE here.
  child.stdin?.on('error', () => {})
  child.stdin?.end(options.input)
  return promise
}

/** The line of a program's stderr that says most: the last `E:`/`error` line, else the last one. */
export function complaint(result: CommandResult): string {
  const lines = result.stderr.split('\n').filter((line) => line.trim() !== '')
  const worst =
    lines.find((line) => /No space/i.test(line)) ??
    lines.findLast((line) => /^E:|error/i.test(line)) ??
    lines.at(-1)
  const end = result.signal ? `ended by ${result.signal}` : `exit status ${result.status}`
  return worst ? `${worst.trim()} (${end})` : end
}
