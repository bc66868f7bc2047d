import { access, readdir, readFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { promisify } from 'node:util'
import { gunzip, zstdDecompress } from 'node:zlib'
import { KvitestError } from '../native/error.ts'
import { complaint, runCommand } from './command.ts'
import type { KernelInfo } from './kernel.ts'
import { buildModule } from './module-build.ts'
import { extractVmlinux } from './vmlinux.ts'

/** A module ready to be loaded with finit_module. */
export interface LoadableModule {
  /** Canonical name, with underscores. */
  name: string
  /** Below /lib/modules/RELEASE in the guest, ending in `.ko`. */
  path: string
  /** The ELF object, decompressed. */
  data: Buffer
  /** Names of modules that must be loaded before it. */
  depends: string[]
}

/** Kernel configuration symbols of modules that a missing-module error can name. */
const symbols: Record<string, string> = {
  virtio_pci: 'VIRTIO_PCI',
  virtio_console: 'VIRTIO_CONSOLE',
  virtio_rng: 'HW_RANDOM_VIRTIO',
  virtio_blk: 'VIRTIO_BLK',
  virtio_net: 'VIRTIO_NET',
  virtio_balloon: 'VIRTIO_BALLOON',
  virtio_mmio: 'VIRTIO_MMIO',
  squashfs: 'SQUASHFS',
  '9p': '9P_FS',
  '9pnet_virtio': 'NET_9P_VIRTIO',
  pvpanic_mmio: 'PVPANIC_MMIO',
  pvpanic_pci: 'PVPANIC_PCI',
  kvm: 'KVM',
  kvm_amd: 'KVM_AMD',
  kvm_intel: 'KVM_INTEL',
}

/** `virtio-rng` and `virtio_rng` are one module to the kernel. */
export function canonicalName(name: string): string {
  return name.replaceAll('-', '_')
}

function nameOf(path: string): string {
  return canonicalName(basename(path).replace(/\.(ko|o)(\.(xz|zst|gz))?$/, ''))
}

const gunzipAsync = promisify(gunzip)
const zstdAsync = promisify(zstdDecompress)

async function readModule(file: string): Promise<Buffer> {
  const bytes = await readFile(file)
  if (file.endsWith('.zst')) return zstdAsync(bytes)
  if (file.endsWith('.gz')) return gunzipAsync(bytes)
  if (!file.endsWith('.xz')) return bytes
  const result = await runCommand(['xz', '-dc'], { input: bytes, package: 'xz-utils' })
  if (result.status !== 0) throw new KvitestError('unpack the module', `${file}: ${complaint(result)}`)
  return result.stdout
}

/**
 * The `key=value` strings of a module's .modinfo section. Debian's packages carry no modules.dep (depmod makes
 * it at installation), a build tree neither; this section is what depmod itself reads.
 */
export function moduleInfo(object: Buffer, file: string): Map<string, string[]> {
  const broken = new KvitestError('read the module', `${file}: not a 64-bit ELF kernel module`, {
    code: 'ENOEXEC',
  })
  if (object.length < 64 || object.toString('latin1', 0, 4) !== '\x7fELF' || object[4] !== 2) throw broken
  const tableAt = Number(object.readBigUInt64LE(40))
  const entrySize = object.readUInt16LE(58)
  const count = object.readUInt16LE(60)
  const namesIndex = object.readUInt16LE(62)
  if (entrySize < 64 || tableAt + entrySize * count > object.length || namesIndex >= count) throw broken
  const section = (index: number) => {
    const at = tableAt + index * entrySize
    const offset = Number(object.readBigUInt64LE(at + 24))
    return {
      name: object.readUInt32LE(at),
      data: object.subarray(offset, offset + Number(object.readBigUInt64LE(at + 32))),
    }
  }
  const names = section(namesIndex).data
  const info = new Map<string, string[]>()
  for (let i = 0; i < count; i++) {
    const { name, data } = section(i)
    const end = names.indexOf(0, name)
    if (names.toString('latin1', name, end) !== '.modinfo') continue
    for (const pair of data.toString('utf8').split('\0')) {
      const at = pair.indexOf('=')
      if (at > 0) info.set(pair.slice(0, at), [...(info.get(pair.slice(0, at)) ?? []), pair.slice(at + 1)])
    }
  }
  return info
}

async function lines(file: string): Promise<string[]> {
  try {
    return (await readFile(file, 'utf8')).split('\n').filter((line) => line !== '')
  } catch {
    return []
  }
}

async function describeModule(name: string, path: string, file: string): Promise<LoadableModule> {
  const data = await readModule(file)
  const depends = (moduleInfo(data, file).get('depends') ?? [])
    .flatMap((list) => list.split(','))
    .filter((one) => one !== '')
  return { name, path: path.replace(/\.(xz|zst|gz)$/, ''), data, depends: depends.map(canonicalName) }
}

/** A module of the caller's own: an object, or C source that is built for this very kernel. */
async function ownModule(kernel: KernelInfo, file: string): Promise<LoadableModule> {
  const object = file.endsWith('.c') ? await buildModule(kernel, file) : file
  const path = `updates/${basename(file).replace(/\.c$/, '.ko')}`
  return describeModule(nameOf(path), path, object).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT' || error instanceof KvitestError) throw error
    throw new KvitestError('read the module', `${file}: no such file`, { code: 'ENOENT', infra: false })
  })
}

/** All modules and built-in drivers of a kernel, by canonical name. */
export class ModuleIndex {
  readonly #kernel: KernelInfo
  readonly #files: Map<string, string>
  readonly #builtin: Set<string>
  /** The vmlinux of a kernel without a modules directory. */
  readonly #vmlinux: Buffer | undefined

  private constructor(
    kernel: KernelInfo,
    files: Map<string, string>,
    builtin: Set<string>,
    vmlinux?: Buffer,
  ) {
    this.#kernel = kernel
    this.#files = files
    this.#builtin = builtin
    this.#vmlinux = vmlinux
  }

  /** Reads `modules.order` and `modules.builtin` of an installed modules directory or of a build tree. */
  static async open(kernel: KernelInfo): Promise<ModuleIndex> {
    const root = kernel.modules
    if (root === undefined)
      return new ModuleIndex(kernel, new Map(), new Set(), await readFile(await extractVmlinux(kernel.image)))
    let listed = await lines(join(root, 'modules.order'))
    if (listed.length === 0) {
      const all = await readdir(root, { recursive: true }).catch(() => [])
      listed = all.filter((path) => /\.ko(\.(xz|zst|gz))?$/.test(path))
    }
    // A build tree lists objects (`foo.o`) since Linux 6.2, what was built from them before.
    const files = new Map(listed.map((path) => [nameOf(path), path.replace(/\.o$/, '.ko')]))
    const builtin = new Set((await lines(join(root, 'modules.builtin'))).map(nameOf))
    return new ModuleIndex(kernel, files, builtin)
  }

  isBuiltin(name: string): boolean {
    const canonical = canonicalName(name)
    // A built-in driver leaves its KBUILD_MODNAME as a string in the image; one that is a module does not.
    return this.#builtin.has(canonical) || (this.#vmlinux?.includes(`\0${canonical}\0`) ?? false)
  }

  has(name: string): boolean {
    return this.#files.has(canonicalName(name)) || this.isBuiltin(name)
  }

  /** The module's object, or undefined when it is built in. Rejects when the kernel has no such module. */
  async load(wanted: string): Promise<LoadableModule | undefined> {
    const name = canonicalName(wanted)
    if (this.isBuiltin(name)) return undefined
    const listed = this.#files.get(name)
    const root = this.#kernel.modules
    if (listed === undefined || root === undefined) throw this.#missing(name)
    for (const suffix of ['', '.xz', '.zst', '.gz']) {
      const file = join(root, listed + suffix)
      const there = await access(file).then(
        () => true,
        () => false,
      )
      if (!there) continue
      return describeModule(name, listed, file)
    }
    throw this.#missing(name)
  }

  #missing(name: string): KvitestError {
    const { modules, release } = this.#kernel
    const symbol = symbols[name] ? ` (CONFIG_${symbols[name]})` : ''
    return new KvitestError(
      'find the kernel module',
      `${name}${symbol}: kernel ${release} has it neither as a module nor built in${modules ? '' : ' (the image has no modules directory beside it)'}`,
      {
        code: 'ENOENT',
        hint: modules
          ? 'use a kernel that has it'
          : 'give the kernel build tree, or put the image beside its lib/modules',
      },
    )
  }
}

/**
 * The wanted modules with all they depend on, in an order in which they load. Built-in ones fall away. A name
 * that ends in `?` is left out when the kernel lacks it; one with a slash is a file, `.ko` or `.c`.
 */
export async function loadOrder(kernel: KernelInfo, wanted: readonly string[]): Promise<LoadableModule[]> {
  const index = await ModuleIndex.open(kernel)
  const order = new Map<string, LoadableModule | undefined>()
  const visiting = new Set<string>()
  const visit = async (name: string): Promise<void> => {
    if (order.has(name) || visiting.has(name)) return
    visiting.add(name)
    const module = await index.load(name)
    for (const dependency of module?.depends ?? []) await visit(dependency)
    order.set(name, module)
  }
  for (const entry of wanted) {
    if (entry.includes('/')) {
      const module = await ownModule(kernel, entry)
      for (const dependency of module.depends) await visit(dependency)
      order.set(module.name, module)
      continue
    }
    const optional = entry.endsWith('?')
    const name = canonicalName(optional ? entry.slice(0, -1) : entry)
    if (optional && !index.has(name)) continue
    await visit(name)
  }
  return [...order.values()].filter((module) => module !== undefined)
}
