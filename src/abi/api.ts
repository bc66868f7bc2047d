/**
 * KVM's API by name, for tests: request numbers, capabilities, exit reasons, constants, and structures as bytes. All of
 * it is the catalogue's committed data, which headers and api.rst were read for; nothing is numbered by hand.
 */
import { KvitestError } from '../native/error.ts'
import { catalogue } from './catalogue/catalogue.ts'
import type v6_1 from './catalogue/data/6.1.json'
import type v6_12 from './catalogue/data/6.12.json'
import type v7_3 from './catalogue/data/7.3.json'

type Data = typeof v6_1 | typeof v6_12 | typeof v7_3
/** Names of a table in any version. */
type Names<D, Table extends keyof Data> = D extends Data ? keyof D[Table] & string : never
type Short<Name extends string, Prefix extends string> = Name extends `${Prefix}${infer Rest}` ? Rest : never
type Fields<D, S> = D extends { structs: Record<S & string, { fields: infer F }> } ? keyof F & string : never

export type IoctlName = Names<Data, 'ioctls'>
export type CapabilityName = Names<Data, 'capabilities'>
export type ExitReasonName = Names<Data, 'exitReasons'>
export type StructName = Names<Data, 'structs'>
export type ConstantName = Names<Data, 'constants'>
export type FieldName<S extends StructName> = Fields<Data, S>

function byShortName<T>(entries: Iterable<[string, T]>, prefix: string): Readonly<Record<string, T>> {
  return Object.fromEntries([...entries].map(([name, value]) => [name.slice(prefix.length), value]))
}

/** Request numbers on x86: `KVM.SET_REGS`. Those of other architectures' structures are not in it. */
export const KVM = byShortName(
  catalogue.ioctls.flatMap((one): [string, number][] =>
    one.request === undefined ? [] : [[one.name, Number(one.request)]],
  ),
  'KVM_',
) as Readonly<Record<Short<IoctlName, 'KVM_'>, number>>

/** Numbers of capabilities: `CAP.IRQCHIP`. */
export const CAP = byShortName(
  catalogue.capabilities.map((one): [string, number] => [one.name, one.value]),
  'KVM_CAP_',
) as Readonly<Record<Short<CapabilityName, 'KVM_CAP_'>, number>>

/** Numbers of exit reasons: `EXIT.IO`. */
export const EXIT = byShortName(
  catalogue.exitReasons.map((one): [string, number] => [one.name, one.value]),
  'KVM_EXIT_',
) as Readonly<Record<Short<ExitReasonName, 'KVM_EXIT_'>, number>>

/** A flag or another number of the headers: `constant('KVM_MEM_READONLY')`. */
export function constant(name: ConstantName): number {
  return Number(catalogue.constant(name))
}

/** Bytes of a structure, without what follows a flexible array. */
export function sizeOf(struct: StructName): number {
  return catalogue.struct(struct).size
}

/** Where a field begins, in bytes. */
export function offsetOf<S extends StructName>(struct: S, field: FieldName<S>): number {
  return catalogue.field(struct, field)[0]
}

/** An integer; of an array its elements, the rest zero; or bytes. */
export type FieldValue = number | bigint | readonly (number | bigint)[] | Uint8Array
export type FieldValues<S extends StructName> = { readonly [F in FieldName<S>]?: FieldValue }

/** Bytes of the integers that a field consists of; undefined for a structure. */
function elementSize(type: string): number | undefined {
  const match = /^[us](8|16|32|64)(\[\d*\])*$/.exec(type)
  return match ? Number(match[1]) / 8 : undefined
}

function putInteger(view: DataView, at: number, size: number, value: number | bigint): void {
  const wrapped = BigInt.asUintN(64, BigInt(value))
  for (let i = 0; i < size; i++) view.setUint8(at + i, Number((wrapped >> BigInt(8 * i)) & 0xffn))
}

/** A copy of the bytes with fields changed. Bytes beyond the structure, a flexible array's, stay. */
export function withFields<S extends StructName>(
  bytes: Uint8Array,
  struct: S,
  values: FieldValues<S>,
): Uint8Array {
  const copy = bytes.slice()
  const view = new DataView(copy.buffer)
  for (const [field, value] of Object.entries<FieldValue | undefined>(values)) {
    if (value === undefined) continue
    const [offset, size, type] = catalogue.field(struct, field)
    if (value instanceof Uint8Array) {
      copy.set(value, offset)
      continue
    }
    const element = elementSize(type)
    const elements = typeof value === 'object' ? value : [value]
    const wrong = element === undefined || (size > 0 && elements.length * element > size)
    if (wrong) {
      throw new KvitestError('lay out a structure', `${struct}.${field} is ${type}, not ${elements.length}`, {
        code: 'EINVAL',
        infra: false,
      })
    }
    for (const [i, one] of elements.entries()) putInteger(view, offset + i * element, element, one)
  }
  return copy
}

/** A structure's bytes, zero but for these fields, and `more` bytes behind it for a flexible array. */
export function structOf<S extends StructName>(struct: S, values: FieldValues<S> = {}, more = 0): Uint8Array {
  return withFields(new Uint8Array(sizeOf(struct) + more), struct, values)
}

/** An integer field, unsigned. */
export function fieldOf<S extends StructName>(bytes: Uint8Array, struct: S, field: FieldName<S>): bigint {
  const [offset, size] = catalogue.field(struct, field)
  let value = 0n
  for (let i = Math.min(size, 8) - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[offset + i]!)
  return value
}
