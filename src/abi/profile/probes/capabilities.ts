import { catalogue } from '../../catalogue/catalogue.ts'
import { type Entries, outcomeOf, type ProbeSession } from '../session.ts'

/** Numbers beyond the newest header's that are asked too: a kernel may be newer than the catalogue. */
const beyond = 48

/** KVM_CHECK_EXTENSION (api.rst 4.4) of every capability that has a name, and of numbers that answer without one. */
export async function capabilities(session: ProbeSession): Promise<Entries> {
  const last = Math.max(...catalogue.capabilities.map((one) => one.value))
  const numbers = Array.from({ length: last + beyond + 1 }, (_, number) => number)
  const entries: Entries = {}
  await session.withVm(async (vm) => {
    for (const [kind, fd] of [
      ['sys', session.system],
      ['vm', vm],
    ] as const) {
      const results = await session.ask(
        numbers.map((number) => ({ fd, ioctl: 'KVM_CHECK_EXTENSION', argument: number })),
      )
      for (const number of numbers) {
        const name = catalogue.capabilityByValue(number)?.name
        const outcome = outcomeOf(results[number]!)
        if (name !== undefined || outcome !== 0) entries[`cap.${name ?? number}.${kind}`] = outcome
      }
    }
  })
  return entries
}
