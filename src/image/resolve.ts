import { access, readdir, realpath, stat } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { KvitestError } from '../native/error.ts'
import { cachedKernels, servedKernels } from './debian.ts'
import { findDebianKernel, unknownKernel } from './debian-kernel.ts'
import { fileHash } from './hash.ts'
import { probeImage } from './image-file.ts'
import type { KernelInfo } from './kernel.ts'

export const defaultKernel = 'debian:6.12-cloud'

export interface ResolveOptions {
  /** Told one line when something slow or noteworthy happens; standard error by default. */
  note?: (line: string) => void
}

async function firstThat(paths: readonly string[]): Promise<string | undefined> {
  for (const path of paths) {
    const there = await access(path).then(
      () => true,
      () => false,
    )
    if (there) return path
  }
  return undefined
}

interface Layout {
  image: string
  modules?: string[]
  config?: string[]
  systemMap?: string[]
  packageVersion?: string
}

async function describe(name: string, layout: Layout): Promise<KernelInfo> {
  const image = await realpath(layout.image).catch(() => resolve(layout.image))
  const { release } = await probeImage(image)
  const place = dirname(image)
  const modules = await firstThat([
    ...(layout.modules ?? []),
    join(place, '../lib/modules', release),
    join(place, 'lib/modules', release),
    join('/lib/modules', release),
  ])
  const config = await firstThat([...(layout.config ?? []), join(place, `config-${release}`)])
  const systemMap = await firstThat([...(layout.systemMap ?? []), join(place, `System.map-${release}`)])
  return {
    name,
    release,
    ...(layout.packageVersion ? { packageVersion: layout.packageVersion } : {}),
    image,
    ...(modules ? { modules: resolve(modules) } : {}),
    ...(config ? { config: resolve(config) } : {}),
    ...(systemMap ? { systemMap: resolve(systemMap) } : {}),
    hash: await fileHash(image),
  }
}

/** A build tree, or a directory into which a kernel package was unpacked. */
async function describeDirectory(name: string, path: string): Promise<KernelInfo> {
  const built = await firstThat([join(path, 'arch/x86/boot/bzImage'), join(path, 'vmlinux')])
  if (built) {
    return describe(name, {
      image: built,
      modules: [path],
      config: [join(path, '.config')],
      systemMap: [join(path, 'System.map')],
    })
  }
  const boot = await readdir(join(path, 'boot')).catch(() => [])
  const images = boot.filter((file) => file.startsWith('vmlinuz-'))
  if (images.length === 1) return describe(name, { image: join(path, 'boot', images[0]!) })
  throw new KvitestError(
    'read the kernel',
    images.length > 1
      ? `${path}: holds ${images.length} kernels (${images.join(', ')})`
      : `${path}: a directory with neither arch/x86/boot/bzImage nor vmlinux`,
    {
      code: 'ENOEXEC',
      hint:
        images.length > 1 ? 'give the path of one of them' : 'build the kernel first (make bzImage modules)',
    },
  )
}

async function resolvePath(name: string): Promise<KernelInfo> {
  const path = resolve(name)
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    const detail = error.code === 'ENOENT' ? 'no such file or directory' : String(error.code)
    throw new KvitestError('find the kernel', `${name}: ${detail}`, {
      code: error.code,
      hint: `give an existing path, or a name such as ${defaultKernel}`,
      cause: error,
    })
  })
  return found.isDirectory() ? describeDirectory(name, path) : describe(name, { image: path })
}

async function resolveDebian(name: string, note: (line: string) => void): Promise<KernelInfo> {
  const { path, release, version } = await findDebianKernel(name, note)
  return describe(name, {
    image: join(path, 'boot', `vmlinuz-${release}`),
    modules: [join(path, 'lib/modules', release)],
    packageVersion: version,
  })
}

/**
 * Finds a kernel by name (`debian:6.12-cloud` is the newest build of 6.12 that the archive serves,
 * `debian:6.12-cloud@oldest` the oldest one, `debian:6.12.115-cloud` and `debian:6.1.0-53-cloud` one exact build) or by
 * the path of a bzImage, an ELF vmlinux or a build tree; fetches it when it is not in the cache.
 *
 * Rejects with a KvitestError of code ENOENT (no such name or path), ENOEXEC (no kernel, or cut short), ENETUNREACH,
 * EILSEQ (damaged package), EROFS, EACCES, ENOSPC (the cache).
 */
export async function resolveKernel(
  name: string = process.env.KVITEST_KERNEL || defaultKernel,
  options: ResolveOptions = {},
): Promise<KernelInfo> {
  const note = options.note ?? ((line) => process.stderr.write(`kvitest: ${line}\n`))
  if (name.startsWith('debian:')) return resolveDebian(name, note)
  const looksLikePath = name.includes('/') || name.startsWith('.')
  const exists = await stat(name).then(
    () => true,
    () => false,
  )
  if (looksLikePath || exists) return resolvePath(name)
  throw unknownKernel(name, await servedKernels().catch(() => cachedKernels()))
}
