/**
 * `kvitest run`: one guest from the shell. With a command after `--`: its stdout, stderr and exit status. Without:
 * an interactive shell on this terminal; Ctrl-] leaves.
 */
import { parseArgs } from 'node:util'
import { openHost } from '../guest/host.ts'
import type { Guest } from '../guest/types.ts'
import { bootFlags, bootOptions, bootUsage, parseTimeout } from './boot-flags.ts'
import { interruptible, runCommand, runShell } from './terminal.ts'

const usage = `usage: kvitest run [options] [-- command...]

${bootUsage}
  --boot         boot the guest, rather than fork one that was booted and saved before
  --console      show the whole kernel log on stderr as it comes; boots
  --timeout S    seconds the command may take
  --core FILE    write the memory of a guest that panics, hangs or oopses there, as an ELF core

Without a command: a shell on this terminal; Ctrl-] leaves. Exit status: the command's own; 128 + n when signal n
ended it; 124 after --timeout; 125 when kvitest itself failed.`

export async function run(argv: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: {
      ...bootFlags,
      boot: { type: 'boolean', default: false },
      console: { type: 'boolean', default: false },
      timeout: { type: 'string', default: '0' },
      core: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    console.log(usage)
    return 0
  }
  const timeout = parseTimeout('kvitest run', values.timeout)
  const { core } = values
  const options = { ...bootOptions('kvitest run', values), name: 'run', core: core !== undefined }
  const log = { loglevel: 7, onConsoleLine: (line: string) => void process.stderr.write(`${line}\n`) }
  return await interruptible(async (session) => {
    session.host = await openHost(values.host)
    if (values.console) session.guest = await session.host.boot({ ...options, ...log })
    else session.guest = await (values.boot ? session.host.boot(options) : session.host.fork(options))
    const { guest } = session
    try {
      return await (positionals.length > 0 ? runCommand(guest, positionals, timeout) : runShell(guest))
    } finally {
      if (core !== undefined) await keepCore(guest, core)
    }
  })
}

async function keepCore(guest: Guest, path: string): Promise<void> {
  const { verdict, reason } = await guest.stop()
  if (verdict === 'pass' || verdict === 'skip') return
  await guest.saveCore(path)
  process.stderr.write(`kvitest: ${verdict}: ${reason}; its memory is in ${path}\n`)
}
