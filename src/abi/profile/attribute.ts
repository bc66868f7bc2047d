/** Which one factor explains that a key differs between several profiles. */
import type { Profile } from './profile.ts'
import { isSame } from './seen.ts'
import type { Value } from './session.ts'

export const factors = ['kernel', 'accelerator', 'CPU model', 'SMP', 'memory', 'module parameters'] as const
export type Factor = (typeof factors)[number]

export type Attribution =
  | { factor: Factor }
  /** Several of them differ in the same way: more profiles would tell. */
  | { ambiguous: Factor[] }
  /** Profiles that are alike in a factor differ in the value, for each factor: two together, or something else. */
  | 'none'

/** Keys of the environment that make up a factor. */
const factorKeys: Record<Exclude<Factor, 'module parameters'>, string[]> = {
  kernel: ['kernel.release', 'kernel.version', 'config.hash'],
  accelerator: ['accelerator', 'backend', 'qemu'],
  'CPU model': ['cpu.vendor_id', 'cpu.cpu_family', 'cpu.model', 'cpu.model_name', 'cpu.stepping'],
  SMP: ['smp.cpus'],
  memory: ['memory.MiB'],
}

function readLevels(keys: readonly string[], profiles: readonly Profile[]): string[] {
  return profiles.map(({ environment }) => keys.map((key) => String(environment[key] ?? '')).join('\n'))
}

/** Parameters that differ between profiles of one kernel: another kernel's defaults are that kernel's. */
function setByHand(profiles: readonly Profile[]): string[] {
  const kernels = readLevels(factorKeys.kernel, profiles)
  const keys = new Set(profiles.flatMap((profile) => Object.keys(profile.environment)))
  return [...keys].filter((key) => {
    if (!key.startsWith('parameter.')) return false
    const values = readLevels([key], profiles)
    return values.some((value, i) => value !== values[kernels.indexOf(kernels[i]!)])
  })
}

/** What a factor is in each profile. */
function levels(factor: Factor, profiles: readonly Profile[]): string[] {
  return readLevels(factor === 'module parameters' ? setByHand(profiles) : factorKeys[factor], profiles)
}

/**
 * A factor explains a difference when profiles that agree in it agree in the value. It is named when it is the
 * only one that does.
 */
export function attribute(profiles: readonly Profile[], values: readonly (Value | undefined)[]): Attribution {
  const able = factors.filter((factor) => {
    const level = levels(factor, profiles)
    return level.every((one, i) => isSame(values[level.indexOf(one)], values[i]))
  })
  if (able.length === 0) return 'none'
  return able.length === 1 ? { factor: able[0]! } : { ambiguous: able }
}

export function attributionText(attribution: Attribution): string {
  if (attribution === 'none') return 'no one factor explains it'
  if ('factor' in attribution) return `explained by: ${attribution.factor}`
  return `ambiguous: ${attribution.ambiguous.join(' or ')}`
}
