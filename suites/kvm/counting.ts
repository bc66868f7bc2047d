import type { RawVcpu, RunAnswer } from 'kvitest'
import type { Bench } from './bench.ts'
import { u32 } from './struct.ts'

/** Where fixtures/guests/raw/count.S counts. */
export const counterAt = 0x2000

export interface Counting {
  vcpu: RawVcpu
  /** How KVM_RUN ended. */
  ended: Promise<RunAnswer>
  /** Waits until the guest counted on: true. False when KVM_RUN has ended before. */
  goesOn(): Promise<boolean>
}

/** Of a guest that counts: waits until it counted on, true; or until its run ended, false. */
export function countsOn(b: Bench, ended: Promise<RunAnswer>): () => Promise<boolean> {
  let isOver = false
  const over = () => {
    isOver = true
  }
  ended.then(over, over)
  const count = async () => u32(await (await b.memory()).read(counterAt, 4), 0)
  return async () => {
    const before = await count()
    while (!isOver) if ((await count()) !== before) return true
    return false
  }
}

/** A guest that counts until a signal ends its run; it runs when this has resolved. */
export async function startCounting(b: Bench): Promise<Counting> {
  const vcpu = await b.guest('count')
  const ended = b.run({ deadline: 50_000 })
  const goesOn = countsOn(b, ended)
  await goesOn()
  return { vcpu, ended, goesOn }
}
