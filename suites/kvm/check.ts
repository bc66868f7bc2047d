import { accessSync, constants } from 'node:fs'
import { inspect } from 'node:util'
import { test as base, expect } from 'kvitest/test'
import type { TaskMeta } from 'vitest'
import { Bench } from './bench.ts'
import { appliesTo, type Claim, type Exception, type HostFacts, kernelsOf, missingOptions } from './claim.ts'

type Facts = HostFacts & { name: string }

export const test = base
  .extend('hostFacts', { scope: 'worker' }, async ({ host }): Promise<Facts> => {
    const { name, accelerator, kernelRelease } = host.info
    const { config } = await host.kernelFacts()
    return { name, accelerator, kernelRelease, without: missingOptions(config) }
  })
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

// A lab boots, and is waited for when others use it, in the time of a hook, not of whatever test comes first.
if (!reason) test.beforeAll(async ({ host, hostFacts: _ }) => await (await host.kvm()).end())

type Body = (context: { bench: Bench; facts: Facts; task: Task }) => Promise<void>
interface Task {
  meta: TaskMeta
}

function culpritOf({ where }: Exception): 'kernel' | 'backend' | 'config' {
  if (where.accelerator !== undefined) return 'backend'
  return where.without === undefined ? 'kernel' : 'config'
}

function bodyOf(
  claim: Claim,
  observe: (bench: Bench) => Promise<unknown>,
  expected: unknown,
  exceptions: Exception[],
): Body {
  return async ({ bench, facts, task }) => {
    const exception = exceptions.find((candidate) => appliesTo(candidate, facts))
    // No guest of it says where it ran, which entries of *.expect.yaml may ask for: the kernel is the host's.
    const { name: on, kernelRelease } = facts
    task.meta.kvitestPlace = { host: on, kernelRelease }
    bench.recorder.take()
    const observed = await observe(bench)
    const kernels = kernelsOf(exceptions)
    task.meta.kvitestCheck = {
      claim,
      ...(kernels ? { kernels } : {}),
      ...(exception ? { exception: { why: exception.why, culprit: culpritOf(exception) } } : {}),
      host: facts.name,
      accelerator: facts.accelerator,
      kernel: facts.kernelRelease,
      without: [...facts.without],
      observed: inspect(observed, { breakLength: Number.POSITIVE_INFINITY, depth: 4, maxStringLength: 200 }),
      ...bench.recorder.take(),
    }
    expect(observed).toEqual(exception ? exception.outcome : expected)
  }
}

type Check = (
  name: string,
  claim: Claim,
  observe: (bench: Bench) => Promise<unknown>,
  expected: unknown,
  exceptions?: Exception[],
) => void

function checkBy(define: (name: string, body: Body) => void): Check {
  return (name, claim, observe, expected, exceptions = []) =>
    define(reason ? `${name} (skipped: ${reason})` : name, bodyOf(claim, observe, expected, exceptions))
}

/** One behaviour check: what is observed on a fresh bench is what is expected, but for the exceptions. */
export const check = checkBy((name, body) =>
  test.skipIf(reason)(name, ({ kvmBench, hostFacts, task }) =>
    body({ bench: kvmBench, facts: hostFacts, task }),
  ),
)

/** As check(), on a bench that all such checks of a worker share: for calls that change nothing. */
export const checkShared = checkBy((name, body) =>
  test.skipIf(reason)(name, ({ sharedBench, hostFacts, task }) =>
    body({ bench: sharedBench, facts: hostFacts, task }),
  ),
)
