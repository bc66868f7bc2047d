import { clearTimeout, setTimeout } from 'node:timers'

/**
 * The time-out of a test or hook that runs, as vitest 5 keeps it in its runner. It has no way to say that some of the
 * time is not the test's: where these fields are others, time-outs go on counting.
 */
interface Deadline {
  endTime: number
  timer: NodeJS.Timeout & { _onTimeout?: (() => void) | null }
}

interface Pause {
  count: number
  began: number
  fire: () => void
}

const pauses = new WeakMap<Deadline, Pause>()

function isDeadline(value: unknown): value is Deadline {
  const { endTime, timer } = (value ?? {}) as Partial<Deadline>
  return typeof endTime === 'number' && typeof timer?._onTimeout === 'function'
}

/** The time-out stands still until the returned function is called; of several pauses until the last one's. */
export function pauseDeadline(deadline: unknown): () => void {
  const known = pauses.get(deadline as Deadline)
  if (known) known.count++
  else if (!begin(deadline)) return () => {}
  let isOver = false
  return () => {
    if (!isOver) end(deadline as Deadline)
    isOver = true
  }
}

function begin(deadline: unknown): boolean {
  if (!isDeadline(deadline)) return false
  const fire = deadline.timer._onTimeout!
  clearTimeout(deadline.timer)
  pauses.set(deadline, { count: 1, began: performance.now(), fire })
  return true
}

function end(deadline: Deadline): void {
  const pause = pauses.get(deadline)!
  if (--pause.count > 0) return
  pauses.delete(deadline)
  const now = performance.now()
  deadline.endTime += now - pause.began
  deadline.timer = setTimeout(pause.fire, Math.max(1, deadline.endTime - now)).unref()
}
