/**
 * Debian's kernels of the flavour that it installs on PCs: `debian:6.12-generic`. Larger than the cloud flavour (107 MB to
 * fetch), with the drivers that this one lacks: 9p among them.
 */
import { KvitestError } from '../native/error.ts'
import { cachedPackages, fetchKernel, type KernelPackage } from './debian.ts'
import { servedPackages } from './debian-files.ts'
import type { FoundKernel } from './debian-kernel.ts'
import { compareVersions, upstreamVersion } from './debian-version.ts'

const packageName = /^linux-image-(\d\S*)-amd64$/
const nameOfOne = /^debian:([\w.+~-]+)-generic$/

export function isGenericName(name: string): boolean {
  return nameOfOne.test(name)
}

/** `6.12.117+deb12` of a package of this flavour, undefined for one of another. */
function abiOf(name: string): string | undefined {
  const abi = packageName.exec(name)?.[1]
  return abi === undefined || /-(cloud|rt)$/.test(abi) ? undefined : abi
}

/**
 * The newest build of a line (`6.12`), or the one build of an upstream version (`6.12.117`) or an ABI (`6.1.0-57`), fetched
 * when it is not in the cache. What is in the cache is taken without asking the archive. Rejects with ENOENT for a build that
 * is not served, ENETUNREACH where it cannot be fetched.
 */
export async function findGenericKernel(name: string, note: (line: string) => void): Promise<FoundKernel> {
  const wanted = nameOfOne.exec(name)![1]!
  const ofName = (packages: readonly KernelPackage[]) =>
    packages
      .filter((one) => {
        const abi = abiOf(one.package)
        const upstream = upstreamVersion(one.version)
        return abi !== undefined && (wanted === abi || `${upstream}.`.startsWith(`${wanted}.`))
      })
      .toSorted((a, b) => compareVersions(b.version, a.version))
  let [chosen] = ofName(await cachedPackages())
  if (!chosen) {
    const served = (await servedPackages(packageName)).filter((one) => !('isMeta' in one && one.isMeta))
    ;[chosen] = ofName(served)
  }
  if (!chosen) {
    throw new KvitestError('find the kernel', `${name}: no such kernel`, {
      code: 'ENOENT',
      hint: 'names look like debian:6.12-generic; kvitest kernel ls lists the builds of the cloud flavour',
    })
  }
  return {
    path: await fetchKernel(chosen, note),
    release: `${abiOf(chosen.package)}-amd64`,
    version: chosen.version,
  }
}
