import fc from 'fast-check'
import {
  type FieldName,
  type FieldValues,
  fieldOf,
  ioctlCall,
  type RawStep,
  type StructName,
  sizeOf,
  withFields,
} from 'kvitest'
import { type Bench, outcomeOf } from './bench.ts'

/** One seed: a run that differs from the one before is the kernel's doing. */
const seed = 0x6b76

type Results = Awaited<ReturnType<Bench['kvm']['batch']>>

/** What comes of a round trip: `holds`, or what did not come back. */
export type RoundTrip = string

interface Trip<T> {
  values: fc.Arbitrary<T>
  /** How many of them. Default 20. */
  runs?: number
  /** The same number of calls for each value. */
  calls: (value: T) => Exclude<RawStep, unknown[]>[]
  /** What is wrong with what these calls came to. */
  judge: (value: T, results: Results) => string | undefined
}

/** Tries values, all in one round trip to the host. One that fails is made as small as it can be and still fail. */
export async function holdsForAll<T>(
  b: Bench,
  { values, runs = 20, calls, judge }: Trip<T>,
): Promise<RoundTrip> {
  const samples = fc.sample(values, { numRuns: runs, seed })
  const lists = samples.map(calls)
  const results = await b.kvm.batch(lists.flat())
  const size = lists[0]!.length
  const wrong = samples
    .map((value, i) => judge(value, results.slice(i * size, (i + 1) * size)))
    .find((one) => one !== undefined)
  if (wrong === undefined) return 'holds'
  const property = fc.asyncProperty(values, async (value) => {
    const why = judge(value, await b.kvm.batch(calls(value)))
    if (why !== undefined) throw new Error(why)
  })
  const { errorInstance } = await fc.check(property, { numRuns: runs, seed })
  return errorInstance instanceof Error ? errorInstance.message : wrong
}

const hex = (value: bigint) => `0x${value.toString(16)}`

/** Says when a value came back as another. */
export function notBack(name: string, wanted: bigint, back: bigint): string | undefined {
  return back === wanted ? undefined : `${name} ${hex(wanted)} came back as ${hex(back)}`
}

/** Where state lives, and how it is read and written. */
export interface State<S extends StructName> {
  struct: S
  get: number
  set: number
}

/**
 * Sets fields of a vCPU's state, the rest as it was, and compares what is read after each. What KVM_SET_ refuses says
 * nothing about what it takes, but all may not be refused.
 */
export async function roundTrip<S extends StructName>(
  b: Bench,
  { struct, get, set }: State<S>,
  values: Partial<Record<FieldName<S>, fc.Arbitrary<bigint>>>,
): Promise<RoundTrip> {
  const { fd } = await b.vcpuOf()
  const before = await b.get(get, sizeOf(struct))
  let taken = 0
  const outcome = await holdsForAll(b, {
    values: fc.record(values as Record<string, fc.Arbitrary<bigint>>),
    calls: (wanted) => [
      ioctlCall(fd, set, withFields(before, struct, wanted as FieldValues<S>)),
      ioctlCall(fd, get, new Uint8Array(sizeOf(struct))),
    ],
    judge: (wanted, [written, read]) => {
      if (outcomeOf(written!) !== 0) return undefined
      taken++
      return Object.entries(wanted)
        .map(([field, value]) => notBack(field, value, fieldOf(read!.data!, struct, field as FieldName<S>)))
        .find((one) => one !== undefined)
    },
  })
  return taken > 0 ? outcome : 'all of them are refused'
}

export const bits = (width: number) => fc.bigInt({ min: 0n, max: (1n << BigInt(width)) - 1n })
/** Addresses of 48 bits, sign extended. */
export const canonical = bits(48).map((low) => BigInt.asUintN(64, BigInt.asIntN(48, low)))
