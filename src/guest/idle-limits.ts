/** How long a guest may be silent, in milliseconds; 0 for ever. docs/verdicts.md says what follows. */
export interface IdleLimits {
  /**
   * Before the agent's greeting (of a fork: its answer): no byte of the console, and vCPUs that halt or spin where they
   * are. A quiet boot that gets on is no hang.
   */
  boot: number
  /** While it runs: no byte on any channel, and then no answer of the agent for as long again. */
  script: number
  /** From the moment it was asked to power off to its end. */
  shutdown: number
}

/** One limit for all three, or those that are not the default. */
export type IdleLimitOption = number | Partial<IdleLimits>

export const defaultIdleLimits: IdleLimits = { boot: 20_000, script: 20_000, shutdown: 20_000 }

/** The option complete; a text when it cannot be. */
export function idleLimitsOf(option: IdleLimitOption = {}): IdleLimits | string {
  const given = typeof option === 'number' ? { boot: option, script: option, shutdown: option } : option
  const defined = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
  for (const [name, value] of Object.entries(defined)) {
    const label = typeof option === 'number' ? 'idleLimit' : `idleLimit.${name}`
    if (!(name in defaultIdleLimits)) return `${label}: known are boot, script, shutdown`
    if (!(value >= 0)) return `${label}: ${value}`
  }
  return { ...defaultIdleLimits, ...defined }
}
