import { BudgetClient, type Lease } from './client.ts'
import { currentHolder, type Holder } from './holder.ts'
import type { RunEvent } from './messages.ts'

export type { Lease } from './client.ts'

/** Milliseconds that a worker leaves the keeping of the budget to its vitest, which lives longer. */
const workerModesty = 500

/** A worker may load this module twice, by Node and by vitest: there is one client. */
const KEY = Symbol.for('kvitest.budget')

/** What one guest takes. */
export interface GuestNeed {
  /** Its name. */
  guest: string
  cpus: number
  /** Bytes. */
  memory: number
}

/** Whether this process works for a run of its parent's, and not for one further up whose environment it has. */
export function isWorker(): boolean {
  return process.env.KVITEST_RUN === String(process.ppid)
}

/** This process's end of the budget. */
export function processBudget(): BudgetClient {
  const place = globalThis as { [KEY]?: BudgetClient }
  place[KEY] ??= new BudgetClient(
    isWorker() ? { run: String(process.ppid), modesty: workerModesty } : { run: String(process.pid) },
  )
  return place[KEY]
}

/** Gives back all that this process holds, and lets another one keep the budget. */
export async function closeProcessBudget(): Promise<void> {
  const place = globalThis as { [KEY]?: BudgetClient }
  const client = place[KEY]
  delete place[KEY]
  await client?.close()
}

/** Waits until the machine has room for the guest. Meanwhile the time-outs of the test that wants it stand still. */
export async function leaseGuest({ guest, cpus, memory }: GuestNeed): Promise<Lease> {
  const holder = currentHolder()
  const resume = holder.pause?.()
  const onWaiting = (text: string) => notice(`guest ${guest} waits for ${text}`)
  try {
    return await processBudget().lease({
      guest,
      cpus,
      memory,
      holder,
      onWaiting,
      signal: holder.signal,
    })
  } finally {
    resume?.()
  }
}

/** For what a guest waits for that is not the machine's own. Call what is returned when it does no longer. */
export function beginWaiting(what: string, holder: Holder = currentHolder()): () => void {
  const resume = holder.pause?.()
  const unblock = processBudget().blocked(holder)
  // Who watches the run sees a guest that starts.
  const timer = setTimeout(() => process.stderr.write(`kvitest: a guest waits for ${what}\n`), 5000)
  timer.unref()
  return () => {
    clearTimeout(timer)
    unblock()
    resume?.()
  }
}

/** For those who watch the run. */
export function tellRun(event: RunEvent): void {
  processBudget().tell(event)
}

/** Where nobody watches the run, the process says itself what it waits for. */
function notice(text: string): void {
  const isShown = isWorker() && process.env.KVITEST_WATCHED === '1'
  if (!isShown) process.stderr.write(`kvitest: ${text}\n`)
}
