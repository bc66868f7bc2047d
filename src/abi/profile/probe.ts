/** All probes of one host, one after the other but for the guests, which run beside them. */
import { capabilities } from './probes/capabilities.ts'
import { cpuid } from './probes/cpuid.ts'
import { devices } from './probes/devices.ts'
import { enableable } from './probes/enable.ts'
import { exits } from './probes/exits.ts'
import { flags } from './probes/flags.ts'
import { ioctls } from './probes/ioctls.ts'
import { limits } from './probes/limits.ts'
import { msrs } from './probes/msrs.ts'
import { state } from './probes/state.ts'
import { stats } from './probes/stats.ts'
import { threads } from './probes/threads.ts'
import type { Entries, ProbeSession } from './session.ts'

export const probes = {
  capabilities,
  cpuid,
  devices,
  enableable,
  flags,
  ioctls,
  limits,
  msrs,
  state,
  stats,
} as const

async function oneByOne(session: ProbeSession): Promise<Entries> {
  const entries: Entries = {}
  for (const probe of Object.values(probes)) Object.assign(entries, await probe(session))
  return entries
}

export async function probeAll(session: ProbeSession): Promise<Entries> {
  // By itself: threads that others need are none of the kernel's.
  const own = await threads(session)
  // Settled, both: nobody may use the session while the caller hears of an error.
  const [guests, rest] = await Promise.allSettled([exits(session), oneByOne(session)])
  if (guests.status === 'rejected') throw guests.reason
  if (rest.status === 'rejected') throw rest.reason
  return { ...own, ...rest.value, ...guests.value }
}
