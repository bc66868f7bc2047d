const BASE64 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'

/** A line of the generated module and the line of the script it stands for, 1-based. */
export interface MappedLine {
  code: string
  line: number
}

export interface GeneratedModule {
  code: string
  map: { version: 3; sources: string[]; sourcesContent: string[]; names: string[]; mappings: string }
}

/** Joins lines into a module with a source map (ECMA-426) of one mapping a line. */
export function joinMapped(lines: MappedLine[], file: string, source: string): GeneratedModule {
  let previous = 0
  const mappings = lines.map(({ line }) => {
    const delta = line - 1 - previous
    previous = line - 1
    return encodeVlq(0) + encodeVlq(0) + encodeVlq(delta) + encodeVlq(0)
  })
  return {
    code: lines.map(({ code }) => code).join('\n'),
    map: { version: 3, sources: [file], sourcesContent: [source], names: [], mappings: mappings.join(';') },
  }
}

function encodeVlq(value: number): string {
  let rest = value < 0 ? (-value << 1) | 1 : value << 1
  let text = ''
  do {
    const digit = rest & 31
    rest >>>= 5
    text += BASE64[rest > 0 ? digit | 32 : digit]
  } while (rest > 0)
  return text
}
