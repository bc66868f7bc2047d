import type { TestProject } from 'vitest/node'
import { closeProcessBudget, processBudget } from '../budget/process-budget.ts'
import { startLabs } from '../host/index.ts'
import { cacheRoot } from '../image/cache.ts'
import { registerUser } from '../image/cache-users.ts'
import { type LeaseCount, LiveRun } from './live-run.ts'
import { addStatusLines } from './status-lines.ts'

const KEY = Symbol.for('kvitest.run')

/** What the projects of a run share, in the process that outlives the workers. */
interface SharedRun {
  users: number
  live: LiveRun
  /** Undefined where somebody serves labs already, such as another vitest or a lab kept warm. */
  labs: ReturnType<typeof startLabs> | undefined
  /** A person pressed Ctrl-C or q: what ends the run must be quick. */
  isCancelled: boolean
}

function place(): { [KEY]?: SharedRun } {
  return globalThis as { [KEY]?: SharedRun }
}

/** Of the run that has just ended, for its summary; undefined when there was none. */
export function takeLeases(): LeaseCount | undefined {
  return place()[KEY]?.live.takeLeases()
}

/** vitest calls it once a project; no lab starts before a guest needs one. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  await registerUser(cacheRoot())
  const before = place()[KEY]
  // What a run of before has left there is for its summary: its labs have ended.
  const mine = before && before.users > 0 ? before : begin(project)
  place()[KEY] = mine
  project.vitest.onCancel((reason) => {
    if (reason === 'keyboard-input') mine.isCancelled = true
  })
  mine.users++
  // Workers are forked after this, with this process's environment.
  if (mine.labs) process.env.KVITEST_LAB_SOCKET = (await mine.labs).socket
  await processBudget().watch((event) => mine.live.onRun(event))
  return async () => {
    mine.users--
    if (mine.users > 0) return
    if (mine.labs) {
      delete process.env.KVITEST_LAB_SOCKET
      await (await mine.labs).close({ save: !mine.isCancelled })
    }
    await closeProcessBudget()
  }
}

function begin({ vitest }: TestProject): SharedRun {
  const hasEvents = process.env.KVITEST_LOG === 'events'
  const live = new LiveRun((line) => process.stderr.write(`${line}\n`), { events: hasEvents })
  const isDrawn = addStatusLines((vitest as unknown as { reporters: unknown[] }).reporters, live)
  process.env.KVITEST_RUN = String(process.pid)
  process.env.KVITEST_WATCHED = isDrawn || hasEvents ? '1' : '0'
  const isServed = Boolean(process.env.KVITEST_LAB_SOCKET)
  const labs = isServed ? undefined : startLabs({ onEvent: (event) => live.onLab(event) })
  return { users: 0, live, labs, isCancelled: false }
}
