import type { TestProject } from 'vitest/node'
import { startLabs } from '../host/index.ts'
import { cacheRoot } from '../image/cache.ts'
import { registerUser } from '../image/cache-users.ts'

const KEY = Symbol.for('kvitest.labs')

/** The labs of a run: one pool for all projects, in the process that outlives the workers. */
interface SharedLabs {
  users: number
  labs: ReturnType<typeof startLabs>
  /** A person pressed Ctrl-C or q: what ends the run must be quick. */
  isCancelled: boolean
}

/** vitest calls it once a project; no lab starts before a guest needs one. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  await registerUser(cacheRoot())
  // Somebody serves labs already, such as another vitest or a lab kept warm.
  if (process.env.KVITEST_LAB_SOCKET && !shared()) return async () => {}
  const place = globalThis as { [KEY]?: SharedLabs }
  place[KEY] ??= { users: 0, labs: startLabs(), isCancelled: false }
  const mine = place[KEY]
  project.vitest.onCancel((reason) => {
    if (reason === 'keyboard-input') mine.isCancelled = true
  })
  mine.users++
  // Workers are forked after this, with this process's environment.
  process.env.KVITEST_LAB_SOCKET = (await mine.labs).socket
  return async () => {
    mine.users--
    if (mine.users > 0) return
    delete process.env.KVITEST_LAB_SOCKET
    delete place[KEY]
    await (await mine.labs).close({ save: !mine.isCancelled })
  }
}

function shared(): SharedLabs | undefined {
  return (globalThis as { [KEY]?: SharedLabs })[KEY]
}
