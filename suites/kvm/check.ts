import { accessSync, constants } from 'node:fs'
import { inspect } from 'node:util'
import { catalogue } from 'kvitest'
import { test as base, expect } from 'kvitest/test'
import { Bench } from './bench.ts'
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
    /** Kernels below this version: `6.8`. */
    before?: string
    from?: string
  }
  outcome: unknown
  why: string
}

/** Of a behaviour check of KVM, in its report. */
export interface CheckMeta extends Done {
  claim: Claim
  /** Kernels that what is expected holds for: `from 6.8`; absent for all. */
  kernels?: string
  exception?: { why: string; culprit: 'kernel' | 'backend' }
  host: string
  accelerator: string
  kernel: string
  /** What was observed, as text. */
  observed: string
}

declare module 'vitest' {
  interface TaskMeta {
    kvitestCheck?: CheckMeta
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

/** The kernels that no exception names, as far as exceptions depend on nothing else. */
function kernelsOf(exceptions: readonly Exception[]): string | undefined {
  const ranges = exceptions.filter(({ where }) => where.accelerator === undefined)
  const words = ranges.flatMap(({ where: { before, from } }) => [
    ...(before ? [`from ${before}`] : []),
    ...(from ? [`before ${from}`] : []),
  ])
  return words.length > 0 ? words.join(', ') : undefined
}

export const test = base
  .extend('kvmBench', async ({ host }, { onCleanup }) => {
    const kvm = await host.kvm()
    onCleanup(() => kvm.end())
    return Bench.open(kvm)
  })
  // For checks that leave no trace: the session, the VM and the vCPU cost more than their ioctls.
  .extend('sharedBench', { scope: 'worker' }, async ({ host }, { onCleanup }) => {
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

type Body = (context: {
  bench: Bench
  host: { info: HostFacts & { name: string } }
  task: Task
}) => Promise<void>
interface Task {
  meta: { kvitestCheck?: CheckMeta }
}

function bodyOf(
  claim: Claim,
  observe: (bench: Bench) => Promise<unknown>,
  expected: unknown,
  exceptions: Exception[],
): Body {
  return async ({ bench, host, task }) => {
    const exception = exceptions.find((candidate) => appliesTo(candidate, host.info))
    bench.recorder.take()
    const observed = await observe(bench)
    const kernels = kernelsOf(exceptions)
    const culprit = exception?.where.accelerator === undefined ? 'kernel' : 'backend'
    task.meta.kvitestCheck = {
      claim,
      ...(kernels ? { kernels } : {}),
      ...(exception ? { exception: { why: exception.why, culprit } } : {}),
      host: host.info.name,
      accelerator: host.info.accelerator,
      kernel: host.info.kernelRelease,
      observed: inspect(observed, { breakLength: Number.POSITIVE_INFINITY, depth: 4, maxStringLength: 200 }),
      ...bench.recorder.take(),
    }
    expect(observed).toEqual(exception ? exception.outcome : expected)
  }
}

const skipped = (name: string) => (reason ? `${name} (skipped: ${reason})` : name)

/** One behaviour check: what is observed on a fresh bench is what is expected, but for the exceptions. */
export function check(
  name: string,
  claim: Claim,
  observe: (bench: Bench) => Promise<unknown>,
  expected: unknown,
  exceptions: Exception[] = [],
): void {
  const body = bodyOf(claim, observe, expected, exceptions)
  test.skipIf(reason)(skipped(name), ({ kvmBench, host, task }) => body({ bench: kvmBench, host, task }))
}

/** As check(), on a bench that all such checks of a worker share: for calls that change nothing. */
export function checkShared(
  name: string,
  claim: Claim,
  observe: (bench: Bench) => Promise<unknown>,
  expected: unknown,
  exceptions: Exception[] = [],
): void {
  const body = bodyOf(claim, observe, expected, exceptions)
  test.skipIf(reason)(skipped(name), ({ sharedBench, host, task }) =>
    body({ bench: sharedBench, host, task }),
  )
}
