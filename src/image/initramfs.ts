import { createHash } from 'node:crypto'
import { access, open, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { DeviceSpec } from '../native/contract.ts'
import { KvitestError } from '../native/error.ts'
import { cached, prune } from './cache.ts'
import { complaint, runCommand } from './command.ts'
import type { GuestPackages } from './guest-packages.ts'
import { fileHash } from './hash.ts'
import type { KernelInfo } from './kernel.ts'
import { type LoadableModule, loadOrder } from './modules.ts'
import { type NewcEntry, writeNewc } from './newc.ts'

export interface InitramfsOptions {
  kernel: KernelInfo
  /** Kernel modules by name; one that ends in `?` is left out when the kernel lacks it. */
  modules: readonly string[]
  /** Guest path -> file on this machine, whose permission bits are kept. */
  files?: Record<string, string>
  packages?: Pick<GuestPackages, 'entries' | 'fallbacks'> | undefined
}

const root = fileURLToPath(new URL('../../', import.meta.url))

/** Modules that a machine's devices need, the agent's own transport and pvpanic among them. */
export function modulesFor(devices: readonly DeviceSpec[]): string[] {
  const wanted = ['virtio_pci', 'virtio_console', 'pvpanic_mmio?']
  if (devices.some((device) => device.type === 'virtio-rng')) wanted.push('virtio_rng')
  if (devices.some((device) => device.type === 'virtio-net')) wanted.push('virtio_net')
  if (devices.some((device) => device.type === 'virtio-vsock')) wanted.push('vmw_vsock_virtio_transport')
  if (devices.some((device) => device.type === 'virtio-blk')) wanted.push('virtio_blk')
  if (devices.some((device) => device.type === 'virtio-scsi')) wanted.push('virtio_scsi', 'sd_mod')
  if (devices.some((device) => device.type === 'virtio-balloon')) wanted.push('virtio_balloon')
  if (devices.some((device) => device.type === 'virtio-9p')) wanted.push('9p', '9pnet_virtio')
  if (devices.some((device) => device.transport === 'mmio')) wanted.push('virtio_mmio')
  return wanted
}

/** A file that the build makes, such as `agent`. */
export async function builtFile(name: string): Promise<string> {
  const path = join(root, 'build/Release', name)
  await access(path).catch((error: NodeJS.ErrnoException) => {
    throw new KvitestError('find our own build', `${path}: ${error.code}`, {
      code: error.code,
      hint: 'run npm run setup',
      cause: error,
    })
  })
  return path
}

/** The statically linked busybox of this machine. */
export async function staticBusybox(): Promise<string> {
  for (const path of ['/bin/busybox', '/usr/bin/busybox', '/bin/busybox-static']) {
    const isStatic = await hasNoInterpreter(path).catch(() => false)
    if (isStatic) return path
  }
  throw new KvitestError('find busybox', 'no statically linked busybox on this machine', {
    code: 'ENOENT',
    hint: 'install the package busybox-static, or run npm run setup',
  })
}

async function hasNoInterpreter(path: string): Promise<boolean> {
  const file = await open(path)
  try {
    const head = Buffer.alloc(4096)
    await file.read(head, 0, head.length, 0)
    if (head.toString('latin1', 0, 4) !== '\x7fELF') return false
    const tableAt = Number(head.readBigUInt64LE(32))
    const entrySize = head.readUInt16LE(54)
    const types = Array.from({ length: head.readUInt16LE(56) }, (_, i) =>
      head.readUInt32LE(tableAt + i * entrySize),
    )
    return !types.includes(3) // PT_INTERP
  } finally {
    await file.close()
  }
}

const applets = new Map<string, Promise<string[]>>()

async function listApplets(busybox: string): Promise<string[]> {
  const result = await runCommand([busybox, '--list'])
  if (result.status !== 0) throw new KvitestError('list the applets of busybox', complaint(result))
  return result.stdout
    .toString()
    .split('\n')
    .filter((applet) => applet !== '' && applet !== 'busybox')
}

/** Names of the applets of the static busybox. */
export async function busyboxApplets(): Promise<string[]> {
  const busybox = await staticBusybox()
  let names = applets.get(busybox)
  if (!names) {
    names = listApplets(busybox)
    applets.set(busybox, names)
    names.catch(() => applets.delete(busybox))
  }
  return names
}

/** busybox and a link for each of its applets, as members of an archive. */
export async function busyboxEntries(): Promise<NewcEntry[]> {
  return [
    { type: 'file', path: 'bin/busybox', mode: 0o755, source: await staticBusybox() },
    ...(await busyboxApplets()).map(
      (name): NewcEntry => ({ type: 'symlink', path: `bin/${name}`, mode: 0o777, target: 'busybox' }),
    ),
  ]
}

/** Modules under /lib/modules with what modprobe needs, and the load order in /etc/kvitest/modules. */
export function moduleEntries(release: string, modules: readonly LoadableModule[]): NewcEntry[] {
  const base = `lib/modules/${release}`
  const byName = new Map(modules.map((module) => [module.name, module]))
  const closure = (module: LoadableModule): string[] =>
    module.depends.flatMap((name) => {
      const dependency = byName.get(name)
      return dependency ? [dependency.path, ...closure(dependency)] : []
    })
  const text = (path: string, lines: string[]): NewcEntry => ({
    type: 'file',
    path,
    mode: 0o644,
    data: Buffer.from(lines.map((line) => `${line}\n`).join('')),
  })
  return [
    ...modules.map(
      (module): NewcEntry => ({
        type: 'file',
        path: `${base}/${module.path}`,
        mode: 0o644,
        data: module.data,
      }),
    ),
    text(
      `${base}/modules.dep`,
      modules.map((module) => `${module.path}: ${[...new Set(closure(module))].join(' ')}`.trim()),
    ),
    text(
      'etc/kvitest/modules',
      modules.map((module) => `/${base}/${module.path}`),
    ),
  ]
}

/** A name for exactly these bytes, without making them: hashes of the contents with paths and modes. */
export async function entriesHash(entries: readonly NewcEntry[]): Promise<string> {
  const hash = createHash('sha256')
  for (const entry of entries) {
    const { type, path, mode } = entry
    hash.update(JSON.stringify([type, path, mode]))
    if (type === 'symlink') hash.update(entry.target)
    if (type === 'character') hash.update(JSON.stringify([entry.major, entry.minor]))
    if (type === 'file')
      hash.update(
        'source' in entry
          ? await fileHash(entry.source)
          : createHash('sha256').update(entry.data).digest('hex'),
      )
  }
  return hash.digest('hex')
}

async function extraEntries(files: Record<string, string>): Promise<NewcEntry[]> {
  return Promise.all(
    Object.entries(files).map(async ([guestPath, source]): Promise<NewcEntry> => {
      const path = guestPath.replace(/^\/+/, '')
      const odd = path === '' || path.split('/').some((part) => part === '' || part === '.' || part === '..')
      if (odd) {
        throw new KvitestError('put a file into the guest', `${guestPath}: not a plain absolute path`, {
          code: 'EINVAL',
        })
      }
      const found = await stat(source).catch((error: NodeJS.ErrnoException) => {
        throw new KvitestError(
          'put a file into the guest',
          `${source}: ${error.code === 'ENOENT' ? 'no such file' : error.code}`,
          {
            code: error.code,
            cause: error,
          },
        )
      })
      if (!found.isFile()) {
        throw new KvitestError('put a file into the guest', `${source}: not a regular file`, {
          code: 'EINVAL',
        })
      }
      return { type: 'file', path, mode: found.mode & 0o7777, source }
    }),
  )
}

/**
 * The root file system of a Linux guest: busybox with links for all applets, the agent as /init, the TAP shell
 * library, the modules with their dependencies, what leads to the disk of packages, and extra files. An uncompressed cpio archive with deterministic
 * bytes, cached by content; `hash` is the sha256 of the file.
 */
export async function buildInitramfs(options: InitramfsOptions): Promise<{ path: string; hash: string }> {
  const { kernel, modules, files = {}, packages } = options
  // Of one path the last one stands.
  const entries: NewcEntry[] = [
    ...(packages?.fallbacks ?? []),
    ...(await busyboxEntries()),
    { type: 'file', path: 'init', mode: 0o755, source: await builtFile('agent') },
    { type: 'file', path: 'lib/kvitest/tap.sh', mode: 0o644, source: join(root, 'native/agent/tap.sh') },
    // The kernel opens it for init before anything is mounted.
    { type: 'character', path: 'dev/console', mode: 0o600, major: 5, minor: 1 },
    ...['proc', 'sys', 'dev', 'run', 'tmp', 'root'].map(
      (path): NewcEntry => ({ type: 'directory', path, mode: 0o755 }),
    ),
    ...moduleEntries(kernel.release, await loadOrder(kernel, modules)),
    ...(packages?.entries ?? []),
    ...(await extraEntries(files)),
  ]
  const path = await cached(['initramfs', `${await entriesHash(entries)}.cpio`], (target) =>
    writeNewc(target, entries),
  )
  await prune('initramfs', 64)
  return { path, hash: await fileHash(path) }
}
