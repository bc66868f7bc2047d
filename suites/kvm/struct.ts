/** Fields of a C struct one after the other, little-endian and without padding: `pack(['u32', 0], ['u64', 0x1000])`. */
export type Field = ['u8' | 'u16' | 'u32' | 'u64', number | bigint] | ['bytes', Uint8Array] | ['pad', number]

const sizes = { u8: 1, u16: 2, u32: 4, u64: 8 }

export function pack(...fields: Field[]): Uint8Array {
  const length = fields.reduce((sum, field) => sum + sizeOf(field), 0)
  const bytes = new Uint8Array(length)
  const view = new DataView(bytes.buffer)
  let at = 0
  for (const field of fields) {
    const [kind, value] = field
    if (kind === 'bytes') bytes.set(value, at)
    else if (kind === 'u64') view.setBigUint64(at, BigInt.asUintN(64, BigInt(value)), true)
    else if (kind === 'u32') view.setUint32(at, Number(value), true)
    else if (kind === 'u16') view.setUint16(at, Number(value), true)
    else if (kind === 'u8') view.setUint8(at, Number(value))
    at += sizeOf(field)
  }
  return bytes
}

function sizeOf(field: Field): number {
  if (field[0] === 'bytes') return field[1].length
  if (field[0] === 'pad') return field[1]
  return sizes[field[0]]
}

/** A copy with one field changed. */
export function changed(bytes: Uint8Array, at: number, field: Field): Uint8Array {
  const copy = bytes.slice()
  copy.set(pack(field), at)
  return copy
}

export function u32(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(at, true)
}

export function u64(bytes: Uint8Array, at: number): bigint {
  return new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(at, true)
}
