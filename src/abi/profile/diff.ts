/** What differs between profiles, each difference with its class and the reason for it. */
import { type Attribution, attribute } from './attribute.ts'
import type { Profile } from './profile.ts'
import { classify } from './rules.ts'
import { isSame, seen } from './seen.ts'
import type { Value } from './session.ts'

/**
 * `breaking`: what worked fails, or answers something else. `tightened`: something that was accepted is refused.
 * `additive`: there is more. `environment`: of the machine, not of KVM. `info`: nothing that a tool can meet.
 */
export type ProfileClass = 'breaking' | 'tightened' | 'additive' | 'environment' | 'info'

/** The worst first. */
export const profileClasses: readonly ProfileClass[] = [
  'breaking',
  'tightened',
  'additive',
  'environment',
  'info',
]

export interface ProfileChange {
  key: string
  before: Value | undefined
  after: Value | undefined
  class: ProfileClass
  reason: string
  /** Tools known to use it: footprints. */
  tools: string[]
  /** The factor that explains it, of more than two profiles. */
  attribution?: Attribution
}

/** What makes the machine under KVM another one. */
const machineIdentity = [
  'accelerator',
  'backend',
  'qemu',
  'cpu.vendor_id',
  'cpu.cpu_family',
  'cpu.model',
  'cpu.model_name',
  'cpu.stepping',
  'smp.cpus',
]

export function isSameMachine(a: Profile, b: Profile): boolean {
  return machineIdentity.every((key) => a.environment[key] === b.environment[key])
}

function partOf(profile: Profile, key: string): 'environment' | 'abi' | 'machine' {
  return key in profile.environment ? 'environment' : key in profile.abi ? 'abi' : 'machine'
}

function keysOf(profiles: readonly Profile[]): string[] {
  const keys = new Set<string>()
  for (const { environment, abi, machine, volatile } of profiles) {
    for (const key of [
      ...Object.keys(abi),
      ...Object.keys(machine),
      ...volatile,
      ...Object.keys(environment),
    ])
      keys.add(key)
  }
  return [...keys]
}

export type ToolsOf = (key: string) => string[]

/**
 * Changes from the first profile to the last, the worst class first; with more than two profiles also those that only
 * show in between, and each with the factor that explains it. A key that keeps its value over all is none.
 */
export function compareProfiles(profiles: readonly Profile[], toolsOf: ToolsOf = () => []): ProfileChange[] {
  const [before, after] = [profiles[0]!, profiles.at(-1)!]
  const changes: ProfileChange[] = []
  for (const key of keysOf(profiles)) {
    const values = profiles.map((profile) => seen(profile, key))
    if (values.every((value) => isSame(values[0], value))) continue
    // One that is as before at the end differs from it somewhere on the way.
    const other = isSame(values[0], values.at(-1))
      ? values.findIndex((value) => !isSame(values[0], value))
      : -1
    const far = other < 0 ? after : profiles[other]!
    const part = partOf(
      key in before.environment || key in before.abi || key in before.machine ? before : far,
      key,
    )
    const pair = { before: values[0], after: other < 0 ? values.at(-1) : values[other] }
    const verdict =
      part === 'environment'
        ? { class: 'environment' as const, reason: 'where the profile was taken' }
        : part === 'machine' && !isSameMachine(before, far)
          ? { class: 'environment' as const, reason: 'the machine under KVM is another one' }
          : classify(key, pair.before, pair.after)
    changes.push({
      key,
      ...pair,
      ...verdict,
      tools: part === 'environment' ? [] : toolsOf(key),
      ...(profiles.length > 2 && part !== 'environment' ? { attribution: attribute(profiles, values) } : {}),
    })
  }
  return changes.sort((a, b) => profileClasses.indexOf(a.class) - profileClasses.indexOf(b.class))
}
