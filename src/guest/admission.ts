import { type GuestNeed, leaseGuest } from '../budget/process-budget.ts'
import type { GuestEnd } from './types.ts'

/** Starts a guest when there is room for it; `waited` milliseconds. */
export type Admit = <G extends { ended: Promise<GuestEnd> }>(
  need: GuestNeed,
  start: (waited: number) => Promise<G>,
) => Promise<G>

/** The machine's budget: its room comes back when the guest has ended, or did not start. */
export const admitByBudget: Admit = async (need, start) => {
  const lease = await leaseGuest(need)
  try {
    const guest = await start(lease.waited)
    lease.started()
    guest.ended.then(({ verdict }) => lease.end(verdict))
    return guest
  } catch (error) {
    lease.end((error as { end?: GuestEnd }).end?.verdict ?? 'infra')
    throw error
  }
}
