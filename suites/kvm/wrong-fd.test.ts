import { catalogue, ioctlCall, KVM } from 'kvitest'
import { describe } from 'vitest'
import { type Bench, type Outcome, outcomeOf } from './bench.ts'
import { checkShared } from './check.ts'
import { deFacto } from './claim.ts'
import { ioctls, type KvmKind, kindsOf, kvmKinds, unknownAnswer } from './fd-kinds.ts'

/** No memory is there, and it is not NULL, which some ioctls take for "none". */
const nowhere = 8n

async function answers(b: Bench, request: number, kinds: KvmKind[]): Promise<Record<string, Outcome>> {
  const fds = await b.fds()
  const { area } = await b.vcpuOf()
  const results = await b.kvm.batch(
    kinds.map((kind) =>
      request === KVM.RUN
        ? ({ do: 'run', vcpu: fds[kind].handle, area: area.handle } as const)
        : ioctlCall(fds[kind], request, nowhere),
    ),
  )
  return Object.fromEntries(kinds.map((kind, i) => [kind, outcomeOf(results[i]!)]))
}

// An fd that does not know a request answers so at once, whatever the argument is.
describe('an ioctl on another kind of fd', () => {
  for (const ioctl of ioctls) {
    const request = catalogue.request(ioctl.name)
    // Two names may share a number, of one architecture each.
    const serving = new Set(catalogue.ioctlsByRequest(request).flatMap(kindsOf))
    const kinds = kvmKinds.filter((kind) => !serving.has(kind))
    const expected = Object.fromEntries(kinds.map((kind) => [kind, unknownAnswer[kind]]))
    checkShared(
      `${ioctl.name} is unknown to ${kinds.join(', ')}`,
      deFacto(ioctl.doc ? ioctl.name : 'File descriptors'),
      (b) => answers(b, request, kinds),
      expected,
    )
  }
})
