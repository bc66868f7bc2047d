/** For plain test files: `import { test, expect } from 'kvitest/test'`. */
import { test as base } from 'vitest'
import { GuestError } from '../guest/error.ts'
import { openHost } from '../guest/host.ts'
import type { BootOptions } from '../guest/types.ts'
import type { HostInfo } from '../host/machine-host.ts'
import { KvitestError } from '../native/error.ts'
import type { Verdict } from '../verdict/types.ts'
import { boundText } from './bounded-text.ts'
import { allowedSplatsOf } from './expected.ts'
import { GuestArtifacts } from './guest-artifacts.ts'
import './matchers.ts'
import { allowedMeta, type GuestMeta } from './meta.ts'

export { describe, expect } from 'vitest'

const MAX_CONSOLE = 64 * 1024
/** Ends that are the test's own business; a guest that ends otherwise fails the test that booted it. */
const ORDERLY: Verdict[] = ['pass', 'fail', 'skip']

/** How the `guest` of a test comes to be. */
export interface GuestOptions extends BootOptions {
  /** `test` (default): each test gets a fork of its own of a guest that was booted with these options. `none`: a boot. */
  fork?: 'test' | 'none'
  /** Of the fork, as in GuestForkOptions. */
  clock?: 'resume' | 'now'
}

/**
 * vitest's `test` with a `host` (one a worker) and a `guest` (one a test). `test.override('guestOptions', {...})` says
 * which guest; `test.override('allowedVerdicts', ['panic'])` lets one end badly on purpose.
 */
export const test = base
  // biome-ignore lint/correctness/noEmptyPattern: vitest reads the names of the fixtures from the pattern
  .extend('host', { scope: 'worker' }, async ({}, { onCleanup }) => {
    const host = await openHost(process.env.KVITEST_HOST || undefined)
    onCleanup(() => host.close())
    return host
  })
  .extend('guestOptions', {} as GuestOptions)
  .extend('allowedVerdicts', ORDERLY)
  .extend('guest', async ({ host, guestOptions, allowedVerdicts, task }, { onCleanup }) => {
    const { fork = 'test', ...options } = guestOptions
    const kernel = options.kernel === undefined ? process.env.KVITEST_KERNEL || undefined : undefined
    const artifacts = new GuestArtifacts(task.file.filepath, task.fullTestName, kernel)
    const allowedSplats = allowedSplatsOf(task.file.filepath)
    const boot = { name: task.name, allowedSplats, core: artifacts.wantsCore, ...options }
    const what = { test: task.fullTestName }
    const note = (meta: GuestMeta) => {
      // A retry has a guest of its own, and all of them count.
      const { kvitestGuest: before, kvitestGuests: all = before ? [before] : [] } = task.meta
      if (before) task.meta.kvitestGuests = [...all, meta]
      task.meta.kvitestGuest = meta
    }
    const guest = await (fork === 'none' ? host.boot(boot) : host.fork(boot)).catch(async (error: Error) => {
      if (!(error instanceof GuestError)) {
        note(unbornGuest(error, host.info, guestOptions))
        throw error
      }
      const { kept, lines } = await artifacts.keep(error.end, error.record, what)
      note({ ...unbornGuest(error, host.info, guestOptions), ...(kept ? { artifacts: kept } : {}) })
      error.message = [error.message, ...lines].join('\n')
      throw error
    })
    onCleanup(async () => {
      const hasFailed = (task.result?.errors?.length ?? 0) > 0
      // A guest that ends well keeps nothing, though its test did not like it.
      const moment =
        hasFailed && artifacts.wantsCore ? await guest.checkpoint().catch(() => undefined) : undefined
      const end = await guest.stop()
      const isAllowed = allowedVerdicts.includes(end.verdict)
      const { kept, lines } = await artifacts.keep(end, guest.record(), {
        ...what,
        isBad: hasFailed || !isAllowed,
        saveCore: (path) => (moment ?? guest).saveCore(path),
      })
      await moment?.release()
      // The test's own failure has its message already.
      if (hasFailed && isAllowed) console.error(lines.join('\n'))
      note({
        kernel: guest.kernel.name,
        kernelRelease: guest.kernelRelease,
        host: guest.host.name,
        hostKernel: guest.host.kernelRelease,
        accelerator: guest.host.accelerator,
        cpus: guestOptions.cpus ?? 1,
        start: guest.forkedFrom ? 'fork' : 'boot',
        ...(guest.resets > 0 ? { resets: guest.resets } : {}),
        verdict: end.verdict,
        reason: end.reason,
        ...allowedMeta(end),
        bootTime: guest.bootTime,
        console: boundText(guest.console.text(), MAX_CONSOLE),
        ...(kept ? { artifacts: kept } : {}),
      })
      if (isAllowed) return
      const detail = [`${end.verdict}: ${end.reason}`, ...lines].join('\n')
      throw new KvitestError(`guest ${guest.name}`, detail, {
        hint: "allow it with test.override('allowedVerdicts', ...) when it is meant to end so",
        infra: end.verdict === 'infra',
      })
    })
    return guest
  })

/** A guest that was asked for and never handed out. */
function unbornGuest(error: Error, host: HostInfo, { kernel, cpus = 1 }: GuestOptions): GuestMeta {
  const { end, console = '' } = error as Partial<GuestError>
  return {
    kernel: kernel ?? process.env.KVITEST_KERNEL ?? 'default',
    host: host.name,
    hostKernel: host.kernelRelease,
    accelerator: host.accelerator,
    cpus,
    verdict: end?.verdict ?? (error instanceof KvitestError ? 'infra' : 'boot-fail'),
    reason: end?.reason ?? error.message,
    console: boundText(console, MAX_CONSOLE),
  }
}
