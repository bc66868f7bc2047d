/** A key of a profile as comparisons see it. */
import type { Profile } from './profile.ts'
import type { Value } from './session.ts'

export const volatileValue = '(volatile)'

/** Its value, `(volatile)` when it has none that keeps still, undefined when it is not there. */
export function seen(profile: Profile, key: string): Value | undefined {
  const value = profile.abi[key] ?? profile.machine[key] ?? profile.environment[key]
  if (value !== undefined) return value
  return profile.volatile.includes(key) ? volatileValue : undefined
}

/** Of a value that does not keep still nothing can be said but that it is there. */
export function isSame(a: Value | undefined, b: Value | undefined): boolean {
  if (a === b) return true
  return (a === volatileValue && b !== undefined) || (b === volatileValue && a !== undefined)
}
