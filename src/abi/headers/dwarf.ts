/** Layouts of structures and values of enumerations, as the compiler's own debug information has them. */

/** Offset and size in bytes, type; a bit field has its first bit within the structure and its width as well. */
export type Field = [offset: number, size: number, type: string, bit?: number, bits?: number]

export interface Layout {
  /** Bytes. */
  size: number
  /** By path: `io.port` is in the member `io`; members of unnamed structures are their parent's. */
  fields: Record<string, Field>
}

export interface DebugTypes {
  /** By name without `struct` or `union`. */
  structs: Map<string, Layout>
  enumerators: Map<string, bigint>
}

interface Entry {
  depth: number
  tag: string
  attributes: Map<string, string>
  children: Entry[]
}

const headPattern = /^\s*<([0-9a-f]+)><([0-9a-f]+)>: Abbrev Number: \d+ \(DW_TAG_(\w+)\)/
const attributePattern = /^\s*<[0-9a-f]+>\s+DW_AT_(\w+)\s*: (.*)$/

/** The text of an attribute without what readelf says of its form: `(strp) (offset: 0x4d): name`. */
function attributeText(text: string): string {
  return text.replace(/^(\([^)]*\):?\s*)+/, '').trim()
}

function parseEntries(text: string): Map<number, Entry> {
  const entries = new Map<number, Entry>()
  const path: Entry[] = []
  let current: Entry | undefined
  for (const line of text.split('\n')) {
    const head = headPattern.exec(line)
    if (head) {
      const depth = Number.parseInt(head[1]!, 16)
      current = { depth, tag: head[3]!, attributes: new Map(), children: [] }
      entries.set(Number.parseInt(head[2]!, 16), current)
      path.length = depth
      path[depth] = current
      path[depth - 1]?.children.push(current)
      continue
    }
    const attribute = attributePattern.exec(line)
    if (attribute) current?.attributes.set(attribute[1]!, attributeText(attribute[2]!))
  }
  return entries
}

function numberOf(entry: Entry, name: string): number | undefined {
  const text = entry.attributes.get(name)
  return text === undefined ? undefined : Number.parseInt(text, text.startsWith('0x') ? 16 : 10)
}

const pointerSize = 8

class Types {
  readonly #entries: Map<number, Entry>

  constructor(entries: Map<number, Entry>) {
    this.#entries = entries
  }

  typeOf(entry: Entry): Entry | undefined {
    const reference = /<0x([0-9a-f]+)>/.exec(entry.attributes.get('type') ?? '')
    return reference ? this.#entries.get(Number.parseInt(reference[1]!, 16)) : undefined
  }

  /** Without typedefs, const and volatile. */
  bare(entry: Entry | undefined): Entry | undefined {
    let type = entry
    while (type && ['typedef', 'const_type', 'volatile_type'].includes(type.tag)) type = this.typeOf(type)
    return type
  }

  count(array: Entry): number {
    return array.children
      .filter((child) => child.tag === 'subrange_type')
      .map((range) => {
        const bound = numberOf(range, 'upper_bound')
        // A flexible array has no bound, one of length 0 has none or -1.
        const length = numberOf(range, 'count') ?? (bound === undefined || bound > 2 ** 32 ? 0 : bound + 1)
        return Math.max(0, length)
      })
      .reduce((product, length) => product * length, 1)
  }

  size(entry: Entry | undefined): number {
    const type = this.bare(entry)
    if (!type) return 0
    if (type.tag === 'pointer_type') return numberOf(type, 'byte_size') ?? pointerSize
    if (type.tag === 'array_type') return this.count(type) * this.size(this.typeOf(type))
    return numberOf(type, 'byte_size') ?? 0
  }

  /** `u32`, `s64`, `u8[256]`, `ptr`, `kvm_regs`, `kvm_msr_entry[]`; an unnamed structure is `struct` or `union`. */
  name(entry: Entry | undefined): string {
    const type = this.bare(entry)
    if (!type) return 'void'
    if (type.tag === 'pointer_type') return 'ptr'
    if (type.tag === 'array_type') return `${this.name(this.typeOf(type))}[${this.count(type) || ''}]`
    if (type.tag === 'base_type') {
      const name = type.attributes.get('name') ?? ''
      const isSigned = !/unsigned|bool/i.test(name)
      return `${isSigned ? 's' : 'u'}${8 * this.size(type)}`
    }
    return type.attributes.get('name') ?? type.tag.replace('_type', '').replace('ure', '')
  }

  isUnnamed(type: Entry | undefined): type is Entry {
    return (
      type !== undefined &&
      /^(structure|union)_type$/.test(type.tag) &&
      type.attributes.get('name') === undefined
    )
  }

  fields(type: Entry, base: number, prefix: string, into: Record<string, Field>): void {
    for (const member of type.children) {
      if (member.tag !== 'member') continue
      const memberType = this.typeOf(member)
      const name = member.attributes.get('name')
      const bits = numberOf(member, 'bit_size')
      const bit = numberOf(member, 'data_bit_offset')
      const offset = base + (numberOf(member, 'data_member_location') ?? Math.floor((bit ?? 0) / 8))
      const bare = this.bare(memberType)
      if (name === undefined) {
        if (this.isUnnamed(bare)) this.fields(bare, offset, prefix, into)
        continue
      }
      const path = `${prefix}${name}`
      const field: Field = [offset, this.size(memberType), this.name(memberType)]
      if (bits !== undefined && bit !== undefined) field.push(8 * base + bit, bits)
      into[path] = field
      if (this.isUnnamed(bare)) this.fields(bare, offset, `${path}.`, into)
    }
  }
}

/** Reads the output of `readelf -W --debug-dump=info`. */
export function parseDebugInfo(text: string): DebugTypes {
  const entries = parseEntries(text)
  const types = new Types(entries)
  const structs = new Map<string, Layout>()
  const enumerators = new Map<string, bigint>()
  for (const entry of entries.values()) {
    const name = entry.attributes.get('name')
    if (entry.tag === 'enumerator' && name)
      enumerators.set(name, BigInt(entry.attributes.get('const_value') ?? 0))
    if (!/^(structure|union)_type$/.test(entry.tag) || !name || entry.attributes.has('declaration')) continue
    const fields: Record<string, Field> = {}
    types.fields(entry, 0, '', fields)
    structs.set(name, { size: types.size(entry), fields })
  }
  return { structs, enumerators }
}
