/** A value of the header that cannot be; `path` leads to it within the YAML. */
export class BadValue extends Error {
  readonly path: (string | number)[]

  constructor(path: (string | number)[], message: string) {
    super(message)
    this.path = path
  }
}

export function knownKeys(map: Record<string, unknown>, known: string[], path: (string | number)[]): void {
  const unknown = Object.keys(map).find((key) => !known.includes(key))
  if (unknown !== undefined) throw new BadValue([...path, unknown], `unknown key '${unknown}'`)
}

export function asMap(value: unknown, path: (string | number)[], what: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new BadValue(path, `${what}: want keys and values, got ${JSON.stringify(value)}`)
  }
  return value as Record<string, unknown>
}

export function asList(value: unknown, path: (string | number)[]): unknown[] {
  if (!Array.isArray(value)) throw new BadValue(path, `want a list, got ${JSON.stringify(value)}`)
  return value
}

export function asText(value: unknown, path: (string | number)[]): string {
  if (typeof value !== 'string' || value === '') {
    throw new BadValue(path, `want text, got ${JSON.stringify(value)}`)
  }
  return value
}
