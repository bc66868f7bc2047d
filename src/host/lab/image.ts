import { existsSync, readFileSync } from 'node:fs'
import { readdir, readFile, realpath } from 'node:fs/promises'
import { createRequire, stripTypeScriptTypes } from 'node:module'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cached, prune } from '../../image/cache.ts'
import { complaint, runCommand } from '../../image/command.ts'
import { builtFile, busyboxEntries, entriesHash, moduleEntries } from '../../image/initramfs.ts'
import type { KernelInfo } from '../../image/kernel.ts'
import { loadOrder } from '../../image/modules.ts'
import { type NewcEntry, writeNewc } from '../../image/newc.ts'
import { KvitestError } from '../../native/error.ts'
import { portName } from './rpc.ts'

const root = fileURLToPath(new URL('../../../', import.meta.url))

/** Where the project stands in a lab. */
const labRoot = 'kvitest'

/** What a lab says last, before the exit status as a shell has it: 128 and the signal that ended the server. */
export const serverEnd = 'kvitest lab: the server ended with status'

/** PID 1 of a lab. A module that does not load is said on the console, which every failure of a lab carries. */
const init = `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs -o size=75% tmpfs /run
exec </dev/null >/dev/console 2>&1
# A checkpoint is shared memory: its forks take one fault for 2 MiB of what they only read.
echo within_size >/sys/kernel/mm/transparent_hugepage/shmem_enabled
for module in $(cat /etc/kvitest/modules); do
  case $module in
    */kvm-amd.ko) grep -qw svm /proc/cpuinfo || continue ;;
    */kvm-intel.ko) grep -qw vmx /proc/cpuinfo || continue ;;
  esac
  insmod $module || echo "kvitest lab: $module did not load"
done
# Where targets of vhost-scsi are made.
[ ! -d /sys/kernel/config ] || mount -t configfs configfs /sys/kernel/config
cd /${labRoot}
export HOME=/tmp UV_THREADPOOL_SIZE=16 NODE_NO_WARNINGS=1
port=$(grep -lx ${portName} /sys/class/virtio-ports/*/name | cut -d / -f 5)
[ -n "$port" ] || echo "kvitest lab: no virtio-serial port named ${portName}"
# The port gives a page at a time; through a pipe Node reads sixteen. It opens once only, so both share it. A named pipe:
# the end of the server alone is the end, though nothing more comes from the port.
exec 3<>/dev/$port
mkfifo /run/rpc
cat <&3 >/run/rpc &
/bin/node src/host/lab/server.js </run/rpc
echo "${serverEnd} $?"
poweroff -f
`

/** The specifier of an import or export declaration that is there at run time, which type-only ones are not. */
const importPattern = /^(\s*(?:import|export)\s+(?!type\b)(?:[^'"]*?\sfrom\s+)?['"])([^'"]+)(['"])/gm

function stripTypes(source: string): string {
  // Node says once on standard error that this function is young; our users cannot do anything about it.
  const warn = process.emitWarning
  process.emitWarning = () => {}
  try {
    return stripTypeScriptTypes(source)
  } finally {
    process.emitWarning = warn
  }
}

interface Program {
  /** Path below the project's root, ending in `.js` -> JavaScript. */
  sources: Map<string, string>
  /** Packages that the sources import. */
  packages: string[]
}

/**
 * The modules that `entry` needs at run time, as JavaScript: stripping the types in the lab would cost seconds of
 * emulated time at each start.
 */
async function compileProgram(entry: string): Promise<Program> {
  const sources = new Map<string, string>()
  const packages = new Set<string>()
  const visit = async (file: string): Promise<void> => {
    const path = relative(root, file).replace(/\.ts$/, '.js')
    if (sources.has(path)) return
    sources.set(path, '')
    const code = stripTypes(await readFile(file, 'utf8'))
    const found: string[] = []
    const rewritten = code.replace(
      importPattern,
      (_all, before: string, specifier: string, after: string) => {
        found.push(specifier)
        return before + (specifier.startsWith('.') ? specifier.replace(/\.ts$/, '.js') : specifier) + after
      },
    )
    sources.set(path, rewritten)
    for (const specifier of found) {
      if (specifier.startsWith('.')) await visit(join(dirname(file), specifier))
      else if (!specifier.startsWith('node:')) packages.add(specifier)
    }
  }
  await visit(entry)
  return { sources, packages: [...packages].sort() }
}

function nameAt(folder: string): string | undefined {
  const path = join(folder, 'package.json')
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as { name?: string }).name : undefined
}

/** A package's directory: the nearest one above its entry point with a package.json of its name. */
function packageBase(name: string, from: string): string {
  let base = dirname(createRequire(from).resolve(name))
  // Folders inside a package may have one too, which says no more than what kind of modules they hold.
  while (nameAt(base) !== name && dirname(base) !== base) base = dirname(base)
  return base
}

/** Packages and those that they need in turn, by name; of two versions of one, the one nearer to us. */
async function packageClosure(names: readonly string[]): Promise<Map<string, string>> {
  const found = new Map<string, string>()
  const visit = async (name: string, from: string): Promise<void> => {
    if (found.has(name)) return
    const base = packageBase(name, from)
    found.set(name, base)
    const { dependencies = {} } = JSON.parse(await readFile(join(base, 'package.json'), 'utf8')) as {
      dependencies?: Record<string, string>
    }
    for (const other of Object.keys(dependencies)) await visit(other, join(base, 'package.json'))
  }
  for (const name of names) await visit(name, import.meta.url)
  return found
}

async function packageFiles(base: string): Promise<string[]> {
  const all = await readdir(base, { recursive: true, withFileTypes: true })
  const files = all.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
  return files.filter((file) => /\.(m?js|cjs|json)$/.test(file))
}

/** Shared libraries of programs, by the path under which the loader looks for them. */
async function sharedLibraries(programs: readonly string[]): Promise<string[]> {
  const found = new Set<string>()
  for (const program of programs) {
    const result = await runCommand(['ldd', program], { package: 'libc-bin' })
    if (result.status !== 0)
      throw new KvitestError('list the shared libraries', `${program}: ${complaint(result)}`)
    const text = result.stdout.toString()
    const missing = /^\s*(\S+) => not found/m.exec(text)
    if (missing) {
      throw new KvitestError(
        'list the shared libraries',
        `${program} needs ${missing[1]}, which is not on this machine`,
        {
          code: 'ENOENT',
        },
      )
    }
    for (const [, path] of text.matchAll(/(?:=>\s+|^\s+)(\/\S+)\s+\(0x/gm)) found.add(path!)
  }
  return [...found].sort()
}

/**
 * A program of ours with all that it needs where there is nothing: Node, the addon, its sources as JavaScript below
 * `/kvitest`, the packages they import. `entry` is its path in the project (`src/host/lab/server.ts`).
 */
export async function programEntries(entry: string): Promise<NewcEntry[]> {
  const addon = await builtFile('kvitest.node')
  const { sources, packages } = await compileProgram(join(root, entry))
  const file = (path: string, source: string, mode = 0o644): NewcEntry => ({
    type: 'file',
    path,
    mode,
    source,
  })
  const entries = [
    file('bin/node', process.execPath, 0o755),
    file(`${labRoot}/build/Release/kvitest.node`, addon),
    file(`${labRoot}/package.json`, join(root, 'package.json')),
    ...[...sources].map(
      ([path, code]): NewcEntry => ({
        type: 'file',
        path: `${labRoot}/${path}`,
        mode: 0o644,
        data: Buffer.from(code),
      }),
    ),
  ]
  for (const [name, base] of await packageClosure(packages)) {
    const members = await packageFiles(base)
    entries.push(
      ...members.map((source) => file(`${labRoot}/node_modules/${name}/${relative(base, source)}`, source)),
    )
  }
  for (const library of await sharedLibraries([process.execPath, addon])) {
    entries.push(file(library.slice(1), await realpath(library), 0o755))
  }
  return entries
}

/**
 * The initramfs of a lab of one kernel: busybox, that kernel's own kvm and vhost modules, Node, the addon and the server.
 * About 130 MB, uncompressed because that boots fastest, cached by content.
 */
export async function buildLabImage(kernel: KernelInfo): Promise<string> {
  const modules = await loadOrder(kernel, [
    'virtio_pci',
    'virtio_console',
    'virtio_rng?',
    'kvm',
    'kvm_amd?',
    'kvm_intel?',
    // What devices of guests are served by in the lab's kernel.
    'vhost_vsock?',
    'vhost_net?',
    'vhost_scsi?',
    'target_core_file?',
    'tun?',
  ])
  const entries: NewcEntry[] = [
    ...(await busyboxEntries()),
    { type: 'file', path: 'init', mode: 0o755, data: Buffer.from(init) },
    { type: 'character', path: 'dev/console', mode: 0o600, major: 5, minor: 1 },
    ...['proc', 'sys', 'dev', 'run', 'tmp'].map(
      (path): NewcEntry => ({ type: 'directory', path, mode: 0o755 }),
    ),
    ...moduleEntries(kernel.release, modules),
    ...(await programEntries('src/host/lab/server.ts')),
  ]
  const path = await cached(['lab', `${await entriesHash(entries)}.cpio`], (target) =>
    writeNewc(target, entries),
  )
  // Large, and a new one for each build of the addon; QEMU reads it as it starts.
  await prune('lab', 4, 10)
  return path
}
