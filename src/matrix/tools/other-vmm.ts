/**
 * VMMs that Debian does not have, given by path: kvmtool, Firecracker, cloud-hypervisor, crosvm. Their command lines are
 * those of their public documentation, named at each; `arguments` adds what a version of one wants besides.
 */
import { constants } from 'node:fs'
import { access, copyFile, mkdir, realpath, stat, writeFile } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { bootImage } from '../../image/boot-image.ts'
import { complaint, runCommand } from '../../image/command.ts'
import { fileHash, textHash } from '../../image/hash.ts'
import { writeNewc } from '../../image/newc.ts'
import { makePack } from '../../image/pack.ts'
import { resolveKernel } from '../../image/resolve.ts'
import { KvitestError } from '../../native/error.ts'
import { cpusOf, defaultSetup, mebibytesOf, needOf, takesOnly } from '../machine.ts'
import { guestResults } from '../outcome.ts'
import type { PreparedTool, Tool } from '../tool.ts'
import { type SmokeGuest, smokeInitramfs } from './smoke.ts'

export interface OtherVmmOptions {
  /** Of the program on this machine. Its shared libraries are packed with it. */
  path: string
  /** Default: the name of the VMM, as `kvmtool`. */
  name?: string
  /** Added to its command line. */
  arguments?: string[]
  /** Milliseconds until the guest must have ended itself; default 120 s. */
  deadline?: number
}

const kernel = '/guest/kernel'
const initramfs = '/guest/initramfs'
/** The log shares the only serial port with the results: of it, what a kernel says as it dies. */
const cmdline = 'console=ttyS0 loglevel=1 panic=-1 reboot=k'

interface VmmKind {
  name: string
  guest: SmokeGuest
  /** What it boots: bzImage, or the vmlinux inside, by PVH where it has that. */
  image: 'bzimage' | 'auto'
  version: string[]
  argv: (cpus: number, mebibytes: number) => string[]
  /** A file of the pack that the command line names. */
  config?: { path: string; text: (cpus: number, mebibytes: number) => string }
}

/** kvmtool's README and `lkvm run --help`: serial on stdio, a guest ends it by a reset through the keyboard controller. */
const kvmtoolKind: VmmKind = {
  name: 'kvmtool',
  guest: { tty: 'ttyS0', end: 'reboot' },
  image: 'bzimage',
  version: ['version'],
  argv: (cpus, mebibytes) => [
    ...['run', '--name', 'guest', '--cpus', String(cpus), '--mem', String(mebibytes), '--console', 'serial'],
    ...['--network', 'mode=none', '--rng', '--kernel', kernel, '--initrd', initramfs, '--params', cmdline],
  ],
}

/** docs/getting-started.md and docs/initrd.md of Firecracker; docs/pci.md: without --enable-pci its devices are on MMIO. */
const firecrackerKind: VmmKind = {
  name: 'firecracker',
  guest: { tty: 'ttyS0', end: 'reboot' },
  image: 'auto',
  version: ['--version'],
  argv: () => ['--no-api', '--config-file', '/guest/vm.json'],
  config: {
    path: 'guest/vm.json',
    text: (cpus, mebibytes) =>
      JSON.stringify({
        'boot-source': { kernel_image_path: kernel, initrd_path: initramfs, boot_args: cmdline },
        'machine-config': { vcpu_count: cpus, mem_size_mib: mebibytes },
        drives: [],
        entropy: {},
      }),
  },
}

/** README.md of cloud-hypervisor, "Booting Linux"; its serial port is the terminal's, the virtio console off. */
const cloudHypervisorKind: VmmKind = {
  name: 'cloud-hypervisor',
  guest: { tty: 'ttyS0', end: 'poweroff' },
  image: 'auto',
  version: ['--version'],
  argv: (cpus, mebibytes) => [
    ...['--cpus', `boot=${cpus}`, '--memory', `size=${mebibytes}M`, '--serial', 'tty', '--console', 'off'],
    ...['--rng', 'src=/dev/urandom', '--kernel', kernel, '--initramfs', initramfs, '--cmdline', cmdline],
  ],
}

/** The book of crosvm, "Running crosvm"; without its sandbox, which wants a user and a folder of their own. */
const crosvmKind: VmmKind = {
  name: 'crosvm',
  guest: { tty: 'ttyS0', end: 'reboot' },
  image: 'bzimage',
  version: ['version'],
  argv: (cpus, mebibytes) => [
    ...['run', '--disable-sandbox', '--cpus', `num-cores=${cpus}`, '--mem', `size=${mebibytes}`],
    ...['--serial', 'type=stdout,hardware=serial,num=1,console', '--initrd', initramfs, '--params', cmdline],
    kernel,
  ],
}

export const kvmtool = (options: OtherVmmOptions): Tool => otherVmm(kvmtoolKind, options)
export const firecracker = (options: OtherVmmOptions): Tool => otherVmm(firecrackerKind, options)
export const cloudHypervisor = (options: OtherVmmOptions): Tool => otherVmm(cloudHypervisorKind, options)
export const crosvm = (options: OtherVmmOptions): Tool => otherVmm(crosvmKind, options)

function otherVmm(kind: VmmKind, options: OtherVmmOptions): Tool {
  const { name = kind.name, deadline = 120_000 } = options
  const prepare = async (guestKernel: string | undefined, setup = defaultSetup): Promise<PreparedTool> => {
    const size = [cpusOf(setup.machine), mebibytesOf(setup.machine)] as const
    const program = await programAt(name, options.path)
    const libraries = await librariesOf(name, program)
    const found = await resolveKernel(guestKernel)
    const image = await bootImage(found, kind.image)
    const { entries, hash } = await smokeInitramfs(found, kind.guest, setup)
    const files = await Promise.all([program, ...libraries].map(fileHash))
    const config = kind.config?.text(...size) ?? ''
    const key = ['1', ...files, found.hash, hash, kind.image, textHash(config)].join(' ')
    const pack = await makePack(name, key, async (root) => {
      await put(program, join(root, 'vmm'))
      for (const path of libraries) await put(path, join(root, path))
      await put(image, join(root, kernel))
      await writeNewc(join(root, initramfs), entries)
      if (kind.config) await writeFile(join(root, kind.config.path), config)
      return [`${program} ${files[0]}`, `${found.name} ${found.release}`]
    })
    // Options before what is no option: crosvm's kernel stays last.
    const words = kind.argv(...size)
    const split = words.length - (words.at(-1) === kernel && kind.name === 'crosvm' ? 1 : 0)
    const argv = ['/vmm', ...words.slice(0, split), ...(options.arguments ?? []), ...words.slice(split)]
    return {
      pack,
      hash: pack.hash,
      version: await versionOf(program, kind.version),
      need: needOf(setup.machine),
      all: async ({ programs }) => guestResults(await programs.run({ argv, deadline }), deadline, 'stdout'),
    }
  }
  return { name, takesGuest: true, need: needOf({}), refusesMachine: takesOnly('cpus', 'memory'), prepare }
}

/** The file behind a path, which must be a program. */
async function programAt(name: string, given: string): Promise<string> {
  const refuse = (detail: string, code: string) =>
    new KvitestError(`find ${name}`, `${given}: ${detail}`, {
      code,
      hint: `give the path of a program of ${name} in the matrix`,
    })
  const path = await realpath(resolve(given)).catch((error: NodeJS.ErrnoException) => {
    throw refuse(error.code === 'ENOENT' ? 'no such file' : String(error.code), error.code ?? 'ENOENT')
  })
  if (!(await stat(path)).isFile()) throw refuse('not a file', 'EINVAL')
  await access(path, constants.X_OK).catch(() => {
    throw refuse('not executable', 'EACCES')
  })
  return path
}

/** Its loader and shared libraries, by the paths under which it finds them; none of a static one. */
async function librariesOf(name: string, program: string): Promise<string[]> {
  const headers = await runCommand(['readelf', '-lW', program], { package: 'binutils' })
  if (headers.status !== 0) {
    throw new KvitestError(`pack ${name}`, `${program}: no ELF file (${complaint(headers)})`, {
      code: 'ENOEXEC',
      hint: 'give the program itself, not a script that starts it',
    })
  }
  if (!/program interpreter:/.test(headers.stdout.toString())) return []
  const result = await runCommand(['ldd', program], { package: 'libc-bin' })
  const text = result.stdout.toString()
  const missing = /^\s*(\S+) => not found/m.exec(text)?.[1]
  if (result.status !== 0 || missing !== undefined) {
    const detail =
      missing === undefined ? complaint(result) : `it needs ${missing}, which is not on this machine`
    throw new KvitestError(`pack ${name}`, `${program}: ${detail}`, { code: 'ENOENT' })
  }
  return [...text.matchAll(/(?:=>\s+|^\s+)(\/\S+)\s+\(0x/gm)].map((match) => match[1]!)
}

async function put(source: string, target: string): Promise<void> {
  await mkdir(dirname(target), { recursive: true })
  await copyFile(await realpath(source), target)
}

/** Its own word, in one line. */
async function versionOf(program: string, argv: readonly string[]): Promise<string> {
  const said = await runCommand([program, ...argv]).catch(() => undefined)
  const line = said?.stdout.toString().trim().split('\n')[0]
  return said?.status === 0 && line ? line.slice(0, 100) : `of ${basename(program)}, unknown`
}
