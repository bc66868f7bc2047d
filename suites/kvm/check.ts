import { accessSync, constants } from 'node:fs'
import { inspect } from 'node:util'
import { test as base, expect } from 'kvitest/test'
import type { TaskMeta } from 'vitest'
import { Bench } from './bench.ts'
import { appliesTo, type Claim, type Exception, type HostFacts, kernelsOf } from './claim.ts'

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

// A lab that has to boot first does so in the time of a hook, not of whatever test comes first.
test.beforeAll(async ({ host }) => void host.info)

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
  meta: TaskMeta
}

function bodyOf(
  claim: Claim,
  observe: (bench: Bench) => Promise<unknown>,
  expected: unknown,
  exceptions: Exception[],
): Body {
  return async ({ bench, host, task }) => {
    const exception = exceptions.find((candidate) => appliesTo(candidate, host.info))
    // No guest of it says where it ran, which entries of *.expect.yaml may ask for: the kernel is the host's.
    const { name: on, kernelRelease } = host.info
    task.meta.kvitestPlace = { host: on, kernelRelease }
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
  test.skipIf(reason)(name, ({ kvmBench, host, task }) => body({ bench: kvmBench, host, task })),
)

/** As check(), on a bench that all such checks of a worker share: for calls that change nothing. */
export const checkShared = checkBy((name, body) =>
  test.skipIf(reason)(name, ({ sharedBench, host, task }) => body({ bench: sharedBench, host, task })),
)
