/**
 * `kvitest run`: one guest from the shell. With a command after `--`: its stdout, stderr and exit status. Without:
 * an interactive shell on this terminal; Ctrl-] leaves.
 */
import { constants } from 'node:os'
import { parseArgs } from 'node:util'
import { openHost } from '../guest/host.ts'
import type { BootOptions, Guest, Host } from '../guest/types.ts'
import { closeOwnLabs } from '../host/index.ts'
import type { KernelEntry } from '../image/boot-image.ts'
import { KvitestError } from '../native/error.ts'

const usage = `usage: kvitest run [options] [-- command...]

  --kernel K     debian:6.12-cloud, debian:6.1-cloud, an exact build, or a path (default: $KVITEST_KERNEL)
  --host H       auto, local, lab or lab:KERNEL (default auto)
  --cpus N       virtual CPUs (default 1)
  --memory M     such as 256M or 2G (default 256M)
  --module M     load a kernel module too; may be repeated
  --file G=F     put file F of this machine at G in the guest; may be repeated
  --cmdline S    appended to the kernel command line
  --entry E      auto, pvh or bzimage: how the kernel is entered (default auto)
  --console      show the whole kernel log on stderr as it comes
  --timeout S    seconds the command may take

Without a command: a shell on this terminal; Ctrl-] leaves. Exit status: the command's own; 128 + n when signal n
ended it; 124 after --timeout; 125 when kvitest itself failed.`

/** Ctrl-], as telnet and virsh console use it. */
const escapeByte = 0x1d

const signals: Record<string, number> = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 }

export async function run(argv: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: {
      kernel: { type: 'string' },
      host: { type: 'string', default: 'auto' },
      cpus: { type: 'string', default: '1' },
      memory: { type: 'string', default: '256M' },
      module: { type: 'string', multiple: true, default: [] },
      file: { type: 'string', multiple: true, default: [] },
      cmdline: { type: 'string' },
      entry: { type: 'string', default: 'auto' },
      console: { type: 'boolean', default: false },
      timeout: { type: 'string', default: '0' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    console.log(usage)
    return 0
  }
  const cpus = Number(values.cpus)
  if (!Number.isInteger(cpus) || cpus < 1) {
    throw new KvitestError('kvitest run', `--cpus ${values.cpus}`, { hint: 'give a whole number from 1' })
  }
  const timeout = Number(values.timeout) * 1000
  if (!(timeout >= 0)) {
    throw new KvitestError('kvitest run', `--timeout ${values.timeout}`, { hint: 'give seconds' })
  }
  const boot: BootOptions = {
    cpus,
    memory: values.memory,
    modules: values.module,
    files: Object.fromEntries(values.file.map(parseFile)),
    name: 'run',
    ...(values.kernel ? { kernel: values.kernel } : {}),
    entry: parseEntry(values.entry),
    ...(values.console
      ? { loglevel: 7, onConsoleLine: (line: string) => void process.stderr.write(`${line}\n`) }
      : {}),
    ...(values.cmdline ? { cmdline: values.cmdline } : {}),
  }

  const interrupted = interruption()
  let host: Host | undefined
  let guest: Guest | undefined
  let isInterrupted = false
  const work = async (): Promise<number> => {
    host = await openHost(values.host)
    guest = await host.boot(boot)
    return positionals.length > 0 ? await runCommand(guest, positionals, timeout) : await runShell(guest)
  }
  try {
    const interruption = interrupted.promise.then((status) => {
      isInterrupted = true
      return status
    })
    return await Promise.race([work(), interruption])
  } finally {
    interrupted.dispose()
    // Leaving must not depend on the guest's good will.
    await guest?.stop({ force: true }).catch(() => {})
    await host?.close()
    // Otherwise they are saved when the process comes to its end.
    if (isInterrupted) await closeOwnLabs({ save: false })
  }
}

function parseEntry(text: string): KernelEntry {
  const entry = (['auto', 'pvh', 'bzimage'] as const).find((one) => one === text)
  if (entry) return entry
  throw new KvitestError('kvitest run', `--entry ${text}`, { hint: 'give auto, pvh or bzimage' })
}

function parseFile(argument: string): [string, string] {
  const split = argument.indexOf('=')
  if (split < 1) {
    throw new KvitestError('kvitest run', `--file ${argument}`, {
      hint: 'write --file /guest/path=./local-file',
    })
  }
  return [argument.slice(0, split), argument.slice(split + 1)]
}

/** The first SIGINT, SIGTERM or SIGHUP settles it with the conventional status; the second ends us at once. */
function interruption(): { promise: Promise<number>; dispose: () => void } {
  const { promise, resolve } = Promise.withResolvers<number>()
  const names = Object.keys(signals) as NodeJS.Signals[]
  let seen = 0
  const listener = (name: NodeJS.Signals) => {
    seen += 1
    if (seen > 1) process.exit(signals[name])
    resolve(signals[name]!)
  }
  for (const name of names) process.on(name, listener)
  return { promise, dispose: () => names.forEach((name) => void process.off(name, listener)) }
}

async function runCommand(guest: Guest, command: string[], timeout: number): Promise<number> {
  const child = await guest.spawn(command, {
    timeout,
    stdin: !process.stdin.isTTY,
    onStdout: (data) => process.stdout.write(data),
    onStderr: (data) => process.stderr.write(data),
  })
  if (!process.stdin.isTTY) void pipeStdin(child)
  try {
    return statusOf(await exitOrEnd(guest, child))
  } finally {
    // A pipe that its writer keeps open must not keep us alive.
    process.stdin.destroy()
  }
}

type Child = Awaited<ReturnType<Guest['spawn']>>
type Exit = Awaited<Child['exited']>

async function pipeStdin(child: Child): Promise<void> {
  try {
    for await (const chunk of process.stdin) await child.writeStdin(chunk)
    await child.closeStdin()
  } catch {
    // The process is gone and its exit says all there is to say; what stdin still holds has no reader.
  }
}

async function runShell(guest: Guest): Promise<number> {
  const { stdin, stdout } = process
  if (!stdin.isTTY || !stdout.isTTY) {
    throw new KvitestError('kvitest run', 'no command and no terminal for a shell', {
      hint: "give a command after '--', or start it on a terminal",
    })
  }
  const size = () => ({ rows: stdout.rows, columns: stdout.columns })
  const child = await guest.spawn(['/bin/sh', '-l'], {
    pty: size(),
    stdin: true,
    env: { TERM: process.env.TERM ?? 'linux', PS1: '\\w # ' },
    onStdout: (data) => stdout.write(data),
  })
  stdout.write(`${guest.kernelRelease} on ${guest.host.name}; Ctrl-] leaves\r\n`)
  const left = Promise.withResolvers<undefined>()
  const onData = (data: Buffer) => {
    const leaveAt = data.indexOf(escapeByte)
    const typed = leaveAt < 0 ? data : data.subarray(0, leaveAt)
    if (typed.length > 0) child.writeStdin(typed).catch(() => {})
    if (leaveAt >= 0) left.resolve(undefined)
  }
  const onResize = () => void child.resize(size().rows, size().columns).catch(() => {})
  stdin.setRawMode(true)
  stdin.on('data', onData)
  stdout.on('resize', onResize)
  try {
    const exit = await Promise.race([exitOrEnd(guest, child), left.promise])
    return exit ? statusOf(exit) : 0
  } finally {
    stdin.off('data', onData)
    stdout.off('resize', onResize)
    stdin.setRawMode(false)
    stdin.pause()
    stdout.write('\r\n')
  }
}

/** A guest that ends takes its process along: that is an error of its own, not an exit status. */
async function exitOrEnd(guest: Guest, child: Child): Promise<Exit> {
  const ended = guest.ended.then((end): never => {
    throw new KvitestError(
      'kvitest run',
      `the guest ended before the command: ${end.verdict}, ${end.reason}`,
      {
        hint: 'run again with --console to see its kernel log',
      },
    )
  })
  ended.catch(() => {})
  // The conversation with the agent breaks first; how the guest ended says more.
  const exited = child.exited.catch((error) => {
    if ((error as KvitestError).code === 'EPIPE') return ended
    throw error
  })
  return await Promise.race([exited, ended])
}

function statusOf(exit: Exit): number {
  if (exit.timedOut) return 124
  if (exit.status !== null) return exit.status
  const number = exit.signal ? constants.signals[exit.signal as NodeJS.Signals] : undefined
  return 128 + (number ?? 0)
}
