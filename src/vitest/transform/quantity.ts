const DURATION_UNITS: Record<string, number> = { ms: 1, s: 1000, m: 60_000 }

/** `500ms`, `60s`, `5m` as milliseconds; undefined when it is none. */
export function parseDuration(value: unknown): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*(ms|s|m)$/.exec(String(value))
  if (!match) return undefined
  return Number(match[1]) * DURATION_UNITS[match[2]!]!
}
