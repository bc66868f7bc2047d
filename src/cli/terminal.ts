import { constants } from 'node:os'
import type { Guest, Host } from '../guest/types.ts'
import { closeOwnLabs } from '../host/index.ts'
import { KvitestError } from '../native/error.ts'

/** Ctrl-], as telnet and virsh console use it. */
const escapeByte = 0x1d

const signals: Record<string, number> = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 }

/** What a command makes on its way to its exit status; it is taken down whatever happens. */
export interface Session {
  host?: Host
  guest?: Guest
}

/** Runs `work` until its exit status, or a signal's. Leaving does not depend on the guest's good will. */
export async function interruptible(work: (session: Session) => Promise<number>): Promise<number> {
  const interrupted = interruption()
  const session: Session = {}
  let isInterrupted = false
  const interruptedStatus = interrupted.promise.then((status) => {
    isInterrupted = true
    return status
  })
  try {
    return await Promise.race([work(session), interruptedStatus])
  } finally {
    interrupted.dispose()
    await session.guest?.stop({ force: true }).catch(() => {})
    await session.host?.close()
    // Otherwise they are saved when the process comes to its end.
    if (isInterrupted) await closeOwnLabs({ save: false })
  }
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

export async function runCommand(guest: Guest, command: string[], timeout: number): Promise<number> {
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

export async function runShell(guest: Guest): Promise<number> {
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
