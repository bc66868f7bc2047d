/** Finds the configuration of a kernel: beside it, inside its image, a file, or in Debian's headers of it. */
import { open, readdir, readFile, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { gunzip } from 'node:zlib'
import { KvitestError } from '../../native/error.ts'
import { fetchFiles, servedPackages } from '../debian-files.ts'
import { compareVersions, upstreamVersion } from '../debian-version.ts'
import { ModuleIndex } from '../modules.ts'
import { resolveKernel } from '../resolve.ts'
import { extractVmlinux } from '../vmlinux.ts'
import { type KernelConfig, parseConfig } from './dot-config.ts'

export interface ConfiguredKernel {
  /** As asked for. */
  name: string
  config: KernelConfig
  /** Absent when there is only a configuration to look at. */
  modules?: ModuleIndex
}

const gunzipAsync = promisify(gunzip)
const gzipMagic = Buffer.from([0x1f, 0x8b])

async function readText(path: string): Promise<string> {
  const bytes = await readFile(path)
  const isCompressed = bytes.subarray(0, 2).equals(gzipMagic)
  return (isCompressed ? await gunzipAsync(bytes) : bytes).toString()
}

/** What a file is, by its first bytes: a configuration, perhaps compressed, or something else. */
async function isConfigFile(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined)
  if (!found?.isFile()) return false
  if (/config[^/]*\.gz$/.test(path)) return true
  const file = await open(path)
  try {
    const head = Buffer.alloc(16 * 1024)
    const { bytesRead } = await file.read(head, 0, head.length, 0)
    const text = head.subarray(0, bytesRead)
    return !text.includes(0) && (bytesRead === 0 || /^(# )?CONFIG_\w+/m.test(text.toString('latin1')))
  } finally {
    await file.close()
  }
}

/**
 * The configuration that CONFIG_IKCONFIG=y puts into a vmlinux: gzip between the marks IKCFG_ST and IKCFG_ED
 * (kernel/configs.c); undefined when there is none.
 */
export async function embeddedConfig(vmlinux: Buffer): Promise<string | undefined> {
  const mark = Buffer.concat([Buffer.from('IKCFG_ST'), gzipMagic])
  const start = vmlinux.indexOf(mark)
  const end = start < 0 ? -1 : vmlinux.indexOf('IKCFG_ED', start)
  if (end < 0) return undefined
  return (await gunzipAsync(vmlinux.subarray(start + 8, end))).toString()
}

/** `debian:6.12-generic`: Debian's headers carry the configuration, which spares fetching the whole kernel. */
async function debianGeneric(name: string, wanted: string): Promise<ConfiguredKernel> {
  const pattern = /^linux-headers-\d\S*-amd64$/
  const served = (await servedPackages(pattern)).filter(
    (one) => !/-(cloud|rt)-amd64$/.test(one.package) && upstreamVersion(one.version) !== '',
  )
  const found = served
    .filter((one) => {
      const upstream = upstreamVersion(one.version)
      // The meta package linux-headers-6.12-amd64 has the version and no files.
      const isMeta = /^linux-headers-\d+\.\d+-amd64$/.test(one.package)
      return !isMeta && (upstream === wanted || upstream.startsWith(`${wanted}.`))
    })
    .toSorted((a, b) => compareVersions(a.version, b.version))
    .at(-1)
  if (!found) {
    throw new KvitestError('find the kernel configuration', `${name}: no such kernel`, {
      code: 'ENOENT',
      hint: 'names look like debian:6.12-generic; or give a path',
      infra: false,
    })
  }
  const root = await fetchFiles(`${found.package}_${found.version}`, {
    packages: [{ package: found.package, version: found.version }],
    members: [`./usr/src/${found.package}/.config`],
  })
  const file = join(root, 'usr/src', found.package, '.config')
  return { name, config: parseConfig(await readText(file), `${name} (${found.version})`) }
}

/**
 * The configuration of a kernel by any name that resolveKernel() takes, of Debian's generic flavour
 * (`debian:6.12-generic`), or of a .config, plain or gzipped. Rejects with a KvitestError of code ENOENT when the
 * kernel has none beside it and none inside, EILSEQ when it is broken.
 */
export async function readKernelConfig(name: string): Promise<ConfiguredKernel> {
  const generic = /^debian:(\d[\w.+~-]*)-generic$/.exec(name)
  if (generic) return debianGeneric(name, generic[1]!)
  if (!name.startsWith('debian:') && (await isConfigFile(resolve(name)))) {
    return { name, config: parseConfig(await readText(resolve(name)), name) }
  }
  const kernel = await resolveKernel(name)
  const modules = await ModuleIndex.open(kernel)
  if (kernel.config !== undefined) {
    return { name, config: parseConfig(await readText(kernel.config), kernel.config), modules }
  }
  const text = await embeddedConfig(await readFile(await extractVmlinux(kernel.image)))
  if (text !== undefined) return { name, config: parseConfig(text, `${name} (IKCONFIG)`), modules }
  const beside = (await readdir(join(kernel.image, '..')).catch(() => [])).length
  throw new KvitestError(
    'find the kernel configuration',
    `${name}: none beside the image (${beside} files there) and none inside`,
    {
      code: 'ENOENT',
      hint: `put config-${kernel.release} beside the image, build with CONFIG_IKCONFIG=y, or give the .config itself`,
      infra: false,
    },
  )
}
