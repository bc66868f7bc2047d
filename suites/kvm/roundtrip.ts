import fc from 'fast-check'
import {
  type FieldName,
  type FieldValues,
  fieldOf,
  ioctlCall,
  type StructName,
  sizeOf,
  withFields,
} from 'kvitest'
import { type Bench, outcomeOf } from './bench.ts'

const runs = 25

/** Where the state lives, and how it is read and written. */
export interface State<S extends StructName> {
  struct: S
  get: number
  set: number
  /** Default `vcpu`. */
  on?: 'vcpu' | 'vm'
  /** Fields of the bytes that the kernel reads as a question: which chip. */
  ask?: FieldValues<S>
}

/** What comes of a round trip: `holds`, or what did not come back; `refused` when nothing at all was taken. */
export type RoundTrip = 'holds' | 'refused' | string

/**
 * Sets fields to values that `values` makes up, the rest as it was, and compares what is read after each that was taken.
 * What KVM_SET_ refuses says nothing about what it takes, but all may not be refused.
 */
export async function roundTrip<S extends StructName>(
  b: Bench,
  state: State<S>,
  values: Partial<Record<FieldName<S>, fc.Arbitrary<bigint>>>,
): Promise<RoundTrip> {
  const fd = state.on === 'vm' ? await b.vmFd() : (await b.vcpuOf()).fd
  const empty = withFields(new Uint8Array(sizeOf(state.struct)), state.struct, state.ask ?? {})
  const read = () => ioctlCall(fd, state.get, empty)
  const [first] = await b.kvm.batch([read()])
  if (first!.errno) return `cannot be read: ${first!.errno}`
  let taken = 0
  const property = fc.asyncProperty(
    fc.record(values as Record<string, fc.Arbitrary<bigint>>),
    async (wanted) => {
      const argument = withFields(first!.data!, state.struct, wanted as FieldValues<S>)
      const [set, after] = await b.kvm.batch([ioctlCall(fd, state.set, argument), read()])
      if (outcomeOf(set!) !== 0) return
      taken++
      for (const [field, value] of Object.entries(wanted)) {
        const back = fieldOf(after!.data!, state.struct, field as FieldName<S>)
        if (back !== value)
          throw new Error(`${field} 0x${value.toString(16)} came back as 0x${back.toString(16)}`)
      }
    },
  )
  // One seed: a run that differs from the one before is the kernel's doing.
  const { failed, errorInstance } = await fc.check(property, { numRuns: runs, seed: 0x6b76 })
  if (failed) return (errorInstance as Error).message
  return taken > 0 ? 'holds' : 'refused'
}

export const bits = (width: number) => fc.bigInt({ min: 0n, max: (1n << BigInt(width)) - 1n })
/** Addresses of 48 bits, sign extended. */
export const canonical = bits(48).map((low) => BigInt.asUintN(64, BigInt.asIntN(48, low)))
