const units: Record<string, number> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }

/** Bytes of `512M`, `2G`, `64KiB` or a number of bytes, as every option and header of ours takes them; undefined for what is no size. */
export function bytesOf(value: unknown): number | undefined {
  const match = /^(\d+)([KMG]?)(?:i?B)?$/i.exec(String(value).trim())
  if (!match) return undefined
  const bytes = Number(match[1]) * units[match[2]!.toUpperCase()]!
  return Number.isSafeInteger(bytes) ? bytes : undefined
}
