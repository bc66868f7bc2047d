import { KvitestError } from '../../native/error.ts'
import type { NativeRaw, RawCall, RawResult } from '../../native/raw-contract.ts'

/** A call, or several that are begun together and on whose end the next step waits; give those threads of their own. */
export type RawStep = RawCall | RawCall[]

/** A session of raw access, where the calls are made: in this process or in a lab. */
export interface RawPlace {
  /**
   * One step after the other; one result a call, in the order they are written. A system call that fails is a result
   * and the batch goes on; rejects at the first call that could not be made, naming it.
   */
  batch(steps: RawStep[]): Promise<RawResult[]>
  /** Ends every call, closes every fd, unmaps all memory. Idempotent. */
  close(): Promise<void>
}

/** As RawPlace.batch(), on the addon itself. */
export async function makeCalls(raw: NativeRaw, steps: RawStep[]): Promise<RawResult[]> {
  const results: RawResult[] = []
  for (const step of steps) {
    const calls = Array.isArray(step) ? step : [step]
    const first = results.length
    // Settled, all of them: none may run on while the caller hears of an error.
    const settled = await Promise.allSettled(calls.map((call) => raw.call(call)))
    for (const [i, outcome] of settled.entries()) {
      if (outcome.status === 'rejected') throw named(outcome.reason, first + i, calls[i]!)
      results.push(outcome.value)
    }
  }
  return results
}

function named(reason: unknown, index: number, call: RawCall): unknown {
  if (!(reason instanceof KvitestError)) return reason
  const request = call.do === 'ioctl' ? ` 0x${Number(call.request).toString(16)}` : ''
  const { operation, code, hint, message } = reason
  const text = message.slice(operation.length + 2, hint ? -(hint.length + 2) : undefined)
  return new KvitestError(operation, `call ${index} (${call.do}${request}): ${text}`, {
    code,
    hint,
    cause: reason,
  })
}
