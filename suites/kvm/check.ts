import { accessSync, constants } from 'node:fs'
import { test as base, expect } from 'kvitest/test'
import { Bench } from './bench.ts'

/** Where a claim comes from: a section of Documentation/virt/kvm/api.rst, or what tools rely on beside it. */
export interface Claim {
  basis: 'documented' | 'de facto'
  section: string
}

export const documented = (section: string): Claim => ({ basis: 'documented', section })
export const deFacto = (section: string): Claim => ({ basis: 'de facto', section })

/** A place where something else is known to come out, and must: a host that got better fails until this is taken out. */
export interface Exception {
  where: {
    accelerator?: 'native' | 'software' | 'tcg' | 'nested'
    /** Kernels below this version: `6.8`. */
    before?: string
    from?: string
  }
  outcome: unknown
  why: string
}

declare module 'vitest' {
  interface TaskMeta {
    /** Of a behaviour check of KVM. */
    kvitestClaim?: Claim & { exception?: string }
  }
}

interface HostFacts {
  accelerator: string
  kernelRelease: string
}

function version(release: string): number {
  const [major = 0, minor = 0] = release.split('.').map((part) => Number.parseInt(part, 10))
  return major * 1000 + minor
}

export function appliesTo({ where }: Exception, host: HostFacts): boolean {
  const kernel = version(host.kernelRelease)
  return (
    (where.accelerator === undefined || where.accelerator === host.accelerator) &&
    (where.before === undefined || kernel < version(where.before)) &&
    (where.from === undefined || kernel >= version(where.from))
  )
}

export const test = base.extend('kvmBench', async ({ host }, { onCleanup }) => {
  const kvm = await host.kvm()
  onCleanup(() => kvm.end())
  return Bench.open(kvm)
})

/** Without a KVM of its own this machine checks nothing, and says so. */
function whyNotHere(): string | undefined {
  if (process.env.KVITEST_HOST !== 'local') return undefined
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK)
    return undefined
  } catch (error) {
    return `no usable /dev/kvm: ${(error as NodeJS.ErrnoException).code}`
  }
}

const reason = whyNotHere()

/** One behaviour check: what is observed on a fresh bench is what is expected, but for the exceptions. */
export function check(
  name: string,
  claim: Claim,
  observe: (bench: Bench) => Promise<unknown>,
  expected: unknown,
  exceptions: Exception[] = [],
): void {
  test.skipIf(reason)(reason ? `${name} (skipped: ${reason})` : name, async ({ kvmBench, host, task }) => {
    const exception = exceptions.find((candidate) => appliesTo(candidate, host.info))
    // No guest of it says where it ran, which entries of *.expect.yaml may ask for: the kernel is the host's.
    const { name: on, kernelRelease } = host.info
    task.meta.kvitestPlace = { host: on, kernelRelease }
    task.meta.kvitestClaim = { ...claim, ...(exception ? { exception: exception.why } : {}) }
    expect(await observe(kvmBench)).toEqual(exception ? exception.outcome : expected)
  })
}
