/** `kvitest checkpoint save|restore`: a running guest to a file, and guests that go on from it. */
import { parseArgs } from 'node:util'
import { openHost } from '../guest/host.ts'
import { KvitestError } from '../native/error.ts'
import { bytesOf } from '../native/size.ts'
import { bootFlags, bootOptions, bootUsage, parseCpus, parseTimeout } from './boot-flags.ts'
import { interruptible, runCommand, runShell } from './terminal.ts'

const usage = `usage: kvitest checkpoint save [options] -o FILE [-- command...]
       kvitest checkpoint restore [options] FILE [-- command...]

save boots a guest, runs the command in it if one is given, and saves the guest as it is then. Not saved when the
command fails: its exit status is the exit status.

${bootUsage}
  -o FILE        where the checkpoint goes
  --timeout S    seconds the command may take

restore checks the whole file, then forks a guest from it: a shell on this terminal, or one command, as kvitest run.
A file that was truncated or changed is refused and never run.

  --host H       auto, local, lab or lab:KERNEL (default auto): of the same kind as it was saved on
  --cpus N       refuse a guest that has another number of CPUs
  --memory M     refuse a guest that has another size of memory
  --now          set the guest's wall clock to the present; else it goes on where it stopped
  --timeout S    seconds the command may take`

export async function checkpoint(argv: string[]): Promise<number> {
  const [action, ...rest] = argv
  if (action === 'save') return await save(rest)
  if (action === 'restore') return await restore(rest)
  console.log(usage)
  return action === undefined || action === '--help' || action === '-h' ? 0 : 2
}

async function save(argv: string[]): Promise<number> {
  const command = 'kvitest checkpoint save'
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: {
      ...bootFlags,
      output: { type: 'string', short: 'o' },
      timeout: { type: 'string', default: '0' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    console.log(usage)
    return 0
  }
  const { output } = values
  if (!output) throw new KvitestError(command, 'no file given', { hint: 'say where it goes with -o FILE' })
  const timeout = parseTimeout(command, values.timeout)
  const options = { ...bootOptions(command, values), name: 'checkpoint' }
  return await interruptible(async (session) => {
    session.host = await openHost(values.host)
    session.guest = await session.host.boot(options)
    if (positionals.length > 0) {
      const status = await runCommand(session.guest, positionals, timeout)
      if (status !== 0) return status
    }
    await using saved = await session.guest.checkpoint()
    await saved.save(output)
    return 0
  })
}

async function restore(argv: string[]): Promise<number> {
  const command = 'kvitest checkpoint restore'
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: {
      host: { type: 'string', default: 'auto' },
      cpus: { type: 'string' },
      memory: { type: 'string' },
      now: { type: 'boolean', default: false },
      timeout: { type: 'string', default: '0' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    console.log(usage)
    return 0
  }
  const [file, ...words] = positionals
  if (!file) throw new KvitestError(command, 'no file given', { hint: "name one that 'save -o FILE' wrote" })
  const timeout = parseTimeout(command, values.timeout)
  const expected = expectedOf(command, values)
  return await interruptible(async (session) => {
    session.host = await openHost(values.host)
    await using saved = await session.host.restore(file)
    session.guest = await saved.fork({ name: 'restored', expected, clock: values.now ? 'now' : 'resume' })
    return words.length > 0 ? await runCommand(session.guest, words, timeout) : await runShell(session.guest)
  })
}

function expectedOf(
  command: string,
  values: { cpus?: string | undefined; memory?: string | undefined },
): { cpus?: number; memory?: number } {
  const cpus = parseCpus(command, values.cpus)
  const memory = values.memory === undefined ? undefined : bytesOf(values.memory)
  if (values.memory !== undefined && memory === undefined) {
    throw new KvitestError(command, `--memory ${values.memory}`, { hint: 'give a size such as 256M or 2G' })
  }
  return { ...(cpus === undefined ? {} : { cpus }), ...(memory === undefined ? {} : { memory }) }
}
