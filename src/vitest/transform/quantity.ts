const SIZE_UNITS: Record<string, number> = { '': 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3 }
const DURATION_UNITS: Record<string, number> = { ms: 1, s: 1000, m: 60_000 }

/** `256M`, `2G` or a number of bytes; undefined when it is none. */
export function parseSize(value: unknown): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?$/.exec(String(value))
  if (!match) return undefined
  return Number(match[1]) * SIZE_UNITS[match[2]!]!
}

/** `500ms`, `60s`, `5m` as milliseconds; undefined when it is none. */
export function parseDuration(value: unknown): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*(ms|s|m)$/.exec(String(value))
  if (!match) return undefined
  return Number(match[1]) * DURATION_UNITS[match[2]!]!
}
