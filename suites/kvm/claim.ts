import { catalogue } from 'kvitest'
import type { Done } from './record.ts'

/** Where a claim comes from: a section of Documentation/virt/kvm/api.rst, or what tools rely on beside it. */
export interface Claim {
  basis: 'documented' | 'de facto'
  /** Name of an ioctl or a capability, or title of a chapter. */
  section: string
  /** Its number in the newest api.rst of the catalogue; absent when no api.rst has it. */
  number?: string
}

/** Throws when no api.rst of the catalogue has such a section: then it is de facto. */
export function documented(section: string): Claim {
  const claim: Claim = { ...deFacto(section), basis: 'documented' }
  if (claim.number === undefined) throw new Error(`${section}: no section of api.rst in any version`)
  return claim
}

export function deFacto(section: string): Claim {
  const number = catalogue.section(section)
  return { basis: 'de facto', section, ...(number === undefined ? {} : { number }) }
}

/** A place where something else is known to come out, and must: a host that got better fails until this is taken out. */
export interface Exception {
  where: {
    accelerator?: 'native' | 'software' | 'tcg' | 'nested'
    /** Kernels below this version: `6.8`, `6.12.113`. Debian's names of 6.1 do not say which stable version it is. */
    before?: string
    from?: string
    /** Kernels built without it; one whose configuration is not known has it. */
    without?: ConfigOption
  }
  outcome: unknown
  why: string
}

/** Of a behaviour check of KVM, in its report. */
export interface CheckMeta extends Done {
  claim: Claim
  /** Kernels that what is expected holds for: `from 6.8`; absent for all. */
  kernels?: string
  exception?: { why: string; culprit: 'kernel' | 'backend' | 'config' }
  host: string
  accelerator: string
  kernel: string
  /** As HostFacts. */
  without: ConfigOption[]
  /** What was observed, as text. */
  observed: string
}

declare module 'vitest' {
  interface TaskMeta {
    kvitestCheck?: CheckMeta
  }
}

/** What of x86 KVM a kernel may be built without; SMM is an option since 6.2, HYPERV since 6.8. */
const configOptions = ['CONFIG_KVM_XEN', 'CONFIG_KVM_HYPERV', 'CONFIG_KVM_SMM'] as const
export type ConfigOption = (typeof configOptions)[number]

export interface HostFacts {
  accelerator: string
  kernelRelease: string
  /** Options that its kernel is known to be built without. */
  without: readonly ConfigOption[]
}

export function missingOptions(config: string | undefined): ConfigOption[] {
  if (config === undefined) return []
  const lines = new Set(config.split('\n'))
  return configOptions.filter((name) => !lines.has(`${name}=y`) && !lines.has(`${name}=m`))
}

function version(release: string): number {
  const [major = 0, minor = 0, patch = 0] = release.split('.').map((part) => Number.parseInt(part, 10))
  return (major * 1000 + minor) * 1000 + patch
}

export function appliesTo({ where }: Exception, host: HostFacts): boolean {
  const kernel = version(host.kernelRelease)
  return (
    (where.accelerator === undefined || where.accelerator === host.accelerator) &&
    (where.without === undefined || host.without.includes(where.without)) &&
    (where.before === undefined || kernel < version(where.before)) &&
    (where.from === undefined || kernel >= version(where.from))
  )
}

/** The kernels that no exception names, as far as exceptions depend on nothing else. */
export function kernelsOf(exceptions: readonly Exception[]): string | undefined {
  const ranges = exceptions.filter(
    ({ where }) => where.accelerator === undefined && where.without === undefined,
  )
  const words = ranges.flatMap(({ where: { before, from } }) => [
    ...(before ? [`from ${before}`] : []),
    ...(from ? [`before ${from}`] : []),
  ])
  return words.length > 0 ? words.join(', ') : undefined
}
