/** What of a profile is committed as the one to compare with: the same on every machine that runs its lab. */
import type { Profile } from './profile.ts'
import { isMachineKey } from './sections.ts'
import type { Entries } from './session.ts'

/** Of the environment; kernel release and build differ with every update, and are no reason to accept anything. */
const kept = ['host', 'accelerator', 'backend', 'qemu']

function majorMinor(version: unknown): string {
  return String(version).split('.').slice(0, 2).join('.')
}

/**
 * The golden of a lab. Its `machine` part is what one QEMU's CPU makes of KVM: where another QEMU runs, that part cannot
 * be compared and is taken over from the golden that is there.
 */
export function goldenOf(profile: Profile, committed?: Profile): Profile {
  const { kind, schema, environment, abi } = profile
  const isComparable =
    committed === undefined || majorMinor(committed.environment.qemu) === majorMinor(environment.qemu)
  const other = isComparable ? profile : committed
  const isOfMachine = (key: string) => isMachineKey(key)
  return {
    kind,
    schema,
    environment: {
      ...(Object.fromEntries(kept.map((key) => [key, environment[key] ?? 'none'])) as Entries),
      qemu: majorMinor(other.environment.qemu),
    },
    abi,
    machine: other.machine,
    volatile: [
      ...profile.volatile.filter((key) => !isOfMachine(key)),
      ...other.volatile.filter((key) => isOfMachine(key)),
    ],
  }
}
