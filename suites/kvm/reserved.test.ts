import { catalogue, type IoctlOptions, ioctlCall, type StructName } from 'kvitest'
import { describe } from 'vitest'
import { exceptionsWhereAbsent } from './absences.ts'
import { type Bench, outcomeOf } from './bench.ts'
import { checkShared } from './check.ts'
import { deFacto, documented, type Exception } from './claim.ts'
import { unknownAnswer } from './fd-kinds.ts'
import { type Base, bases, isReserved, notInput, type Place, placesIn } from './reserved.ts'

async function ask(
  b: Bench,
  { ioctl, kind, make }: Base,
  edits: ((bytes: Uint8Array) => Uint8Array)[],
): Promise<unknown[]> {
  const fd = (await b.fds())[kind]
  const made = await make(b)
  const { bytes, patches }: { bytes: Uint8Array; patches?: IoctlOptions['patches'] } =
    made instanceof Uint8Array ? { bytes: made } : made
  const calls = edits.map((edit) =>
    ioctlCall(fd, catalogue.request(ioctl), edit(bytes), patches ? { patches } : {}, b.kvm.nextHandle()),
  )
  return (await b.kvm.batch(calls)).map(outcomeOf)
}

const fill =
  ({ offset, size }: Place) =>
  (bytes: Uint8Array) => {
    const copy = bytes.slice()
    copy.fill(0xff, offset, offset + size)
    return copy
  }

const setBit =
  ({ offset }: Place, bit: number) =>
  (bytes: Uint8Array) => {
    const copy = bytes.slice()
    copy[offset + (bit >> 3)]! |= 1 << (bit & 7)
    return copy
  }

const same = (bytes: Uint8Array) => bytes

function count(outcomes: unknown[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const outcome of outcomes) counts[String(outcome)] = (counts[String(outcome)] ?? 0) + 1
  return counts
}

for (const base of bases) {
  const { ioctl, kind, outcome = 0, software } = base
  const struct = catalogue.ioctl(ioctl).struct! as StructName
  const where = base.label ? ` ${base.label}` : kind === 'vcpu' ? ' of a vCPU' : ''
  describe(`${ioctl}${where}`, () => {
    for (const [field, wanted] of Object.entries(base.fields)) {
      const place = placesIn(struct)[field] ?? base.places?.[field]
      if (!place) throw new Error(`${ioctl}: struct ${struct} has no ${field}`)
      const known = typeof wanted === 'object' ? wanted.known : undefined
      const refusal = typeof wanted === 'object' ? wanted.outcome : wanted
      const isRefused = refusal !== outcome
      const onSoftware = (answer: unknown): Exception[] =>
        software === undefined
          ? []
          : [{ where: { accelerator: 'software' }, outcome: answer, why: 'it cannot do that' }]
      const absent = (answer: unknown) => exceptionsWhereAbsent(ioctl, answer)
      if (known === undefined) {
        checkShared(
          `${ioctl}${where}: ones in ${field} are ${isRefused ? 'refused' : 'not looked at'}`,
          base.says?.includes(field) ? documented(ioctl) : deFacto(ioctl),
          (b) => ask(b, base, [same, fill(place)]),
          [outcome, refusal],
          [
            ...onSoftware([software, isRefused ? refusal : software]),
            ...absent([unknownAnswer[kind], unknownAnswer[kind]]),
          ],
        )
        continue
      }
      const bits = Array.from({ length: place.size * 8 }, (_, bit) => bit).filter(
        (bit) => ((BigInt(known) >> BigInt(bit)) & 1n) === 0n,
      )
      checkShared(
        `${ioctl}${where}: each unknown bit of ${field} is ${isRefused ? 'refused' : 'not looked at'}`,
        base.says?.includes(field) ? documented(ioctl) : deFacto(ioctl),
        async (b) => {
          const [first, ...rest] = await ask(b, base, [same, ...bits.map((bit) => setBit(place, bit))])
          return [first, count(rest)]
        },
        [outcome, { [String(refusal)]: bits.length }],
        [
          ...onSoftware([software, { [String(isRefused ? refusal : software)]: bits.length }]),
          ...absent([unknownAnswer[kind], { [unknownAnswer[kind]]: bits.length }]),
        ],
      )
    }
  })
}

// A structure that gets a reserved field gets a case, or this file does not load.
const covered = new Set(
  bases.flatMap(({ ioctl, fields }) =>
    Object.keys(fields).map((field) => `${catalogue.ioctl(ioctl).struct}.${field}`),
  ),
)
for (const { struct } of catalogue.ioctls.filter(isReserved.ioctl)) {
  for (const field of Object.keys(placesIn(struct as StructName)).filter(isReserved.field)) {
    const name = `${struct}.${field}`
    if (!covered.has(name) && !notInput.has(name)) throw new Error(`${name}: no case for its unknown bits`)
  }
}
