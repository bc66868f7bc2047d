/** The `kvitest` command: one subcommand a file; each returns its exit status. */
import { KvitestError } from '../native/error.ts'

const usage = `usage: kvitest <command>

  doctor [--json]                     what this machine can do, which host each kind of guest will use, and why
  run [options] [-- command...]       one guest from the shell: an interactive shell, or one command
  checkpoint save|restore ...         a running guest to a file, and guests that go on from it
  kernel ls [LINE...]                 builds that Debian serves, the names by which they go
  kernel fetch [name...]              fetch kernels into the cache
  kernel config [options] KERNEL      what a kernel's configuration lacks to be a guest, a lab, or debugged
  abi catalogue|headers|dump|diff     KVM's API as data; what differs between kernels' headers, and between hosts
  plan --format F [FILE.cells.json]   a matrix's cells as jobs of GitHub Actions, GitLab or Kubernetes
  bisect [FILE] CELL                  where a red cell of a matrix became red: which axis, between which builds
  plant PLANT... -- COMMAND           a command whose KVM misbehaves: does a test notice?
  cache ls|prune                      what the cache holds; less of it
  help                                this text

'kvitest <command> --help' tells more. Tests run through vitest: npx vitest run suites/virtio`

const commands: Record<string, () => Promise<(argv: string[]) => Promise<number>>> = {
  doctor: async () => (await import('./doctor.ts')).doctor,
  run: async () => (await import('./run.ts')).run,
  checkpoint: async () => (await import('./checkpoint.ts')).checkpoint,
  kernel: async () => (await import('./kernel.ts')).kernel,
  abi: async () => (await import('./abi.ts')).abi,
  plan: async () => (await import('./plan.ts')).plan,
  bisect: async () => (await import('./bisect.ts')).bisect,
  plant: async () => (await import('./plant.ts')).plant,
  cache: async () => (await import('./cache.ts')).cache,
}

async function main(argv: string[]): Promise<number> {
  const [name = 'help', ...rest] = argv
  if (['help', '--help', '-h'].includes(name)) {
    console.log(usage)
    return 0
  }
  const load = commands[name]
  if (!load) {
    console.error(`kvitest: no command '${name}'; 'kvitest help' lists them`)
    return 2
  }
  return await (await load())(rest)
}

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  const parseError = (error as NodeJS.ErrnoException).code?.startsWith('ERR_PARSE_ARGS')
  const expected = error instanceof KvitestError || parseError
  console.error(
    `kvitest: ${expected || !(error instanceof Error) ? String((error as Error).message) : error.stack}`,
  )
  process.exitCode = parseError ? 2 : 125
}
