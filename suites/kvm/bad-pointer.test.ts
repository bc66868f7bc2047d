import { catalogue, ioctlCall, KVM } from 'kvitest'
import { describe } from 'vitest'
import { exceptionsWhereAbsent } from './absences.ts'
import { type Bench, type Outcome, outcomeOf } from './bench.ts'
import { check, checkShared } from './check.ts'
import { deFacto, documented, type Exception } from './claim.ts'
import { ioctls, type KvmKind, kindsOf, unknownAnswer } from './fd-kinds.ts'

/** No memory is there, and it is not NULL, which some ioctls take for "none". */
const nowhere = 8n

type Answers = Partial<Record<KvmKind, Outcome>>

async function answers(
  b: Bench,
  request: number,
  kinds: KvmKind[],
  argument: bigint | Uint8Array,
): Promise<Answers> {
  const fds = await b.fds()
  const results = await b.kvm.batch(kinds.map((kind) => ioctlCall(fds[kind], request, argument)))
  return Object.fromEntries(kinds.map((kind, i) => [kind, outcomeOf(results[i]!)]))
}

/** Where an ioctl looks at something else first. */
const otherwise: Record<string, Answers> = {
  // A device of VFIO has no attributes to read.
  KVM_GET_DEVICE_ATTR: { dev: 'EPERM' },
}
/** Of those, what a short argument changes. */
const otherwiseShort: Record<string, Answers> = {
  ...otherwise,
  // Its first word says how much memory there is.
  KVM_GET_NESTED_STATE: { vcpu: 'E2BIG' },
}
/** Looks for vCPUs before it looks at the argument; has checks of its own below. */
const needsNoVcpu = ['KVM_SET_IDENTITY_MAP_ADDR']

const served = ioctls.filter(
  (one) =>
    one.struct !== undefined &&
    kindsOf(one).length > 0 &&
    catalogue.argumentSize(one.name) > 0 &&
    !needsNoVcpu.includes(one.name),
)

function expectations(name: string, special: Record<string, Answers>): [Answers, Exception[]] {
  const kinds = kindsOf(catalogue.ioctl(name)) as KvmKind[]
  const all = (of: (kind: KvmKind) => Outcome) =>
    Object.fromEntries(kinds.map((kind) => [kind, of(kind)])) as Answers
  const unknown = all((kind) => unknownAnswer[kind])
  // The request is known to the vCPU of newer kernels, which ask the backend.
  const newer: Exception[] =
    name === 'KVM_MEMORY_ENCRYPT_OP'
      ? [{ where: { from: '6.16' }, outcome: all(() => 'ENOTTY'), why: 'vCPUs have it since TDX' }]
      : []
  return [{ ...all(() => 'EFAULT'), ...special[name] }, [...newer, ...exceptionsWhereAbsent(name, unknown)]]
}

/** Whether api.rst says EFAULT of it. */
function claimOf(name: string) {
  const { errnos } = catalogue.ioctl(name)
  return errnos.some(({ code }) => code === 'EFAULT') ? documented(name) : deFacto(name)
}

describe('an argument where no memory is', () => {
  for (const ioctl of served) {
    const kinds = kindsOf(ioctl) as KvmKind[]
    checkShared(
      `${ioctl.name} does not take a pointer to nothing`,
      claimOf(ioctl.name),
      (b) => answers(b, catalogue.request(ioctl.name), kinds, nowhere),
      ...expectations(ioctl.name, otherwise),
    )
  }
  check(
    'KVM_SET_IDENTITY_MAP_ADDR does not take a pointer to nothing',
    deFacto('KVM_SET_IDENTITY_MAP_ADDR'),
    (b) => b.vm(KVM.SET_IDENTITY_MAP_ADDR, nowhere),
    'EFAULT',
  )
})

// The page behind the argument may not be touched: a kernel that takes fewer bytes gives itself away.
describe('an argument that is one byte too short', () => {
  for (const ioctl of served) {
    const kinds = kindsOf(ioctl) as KvmKind[]
    const size = catalogue.argumentSize(ioctl.name)
    checkShared(
      `${ioctl.name} takes all ${size} bytes of ${ioctl.struct}`,
      claimOf(ioctl.name),
      (b) => answers(b, catalogue.request(ioctl.name), kinds, new Uint8Array(size - 1)),
      ...expectations(ioctl.name, otherwiseShort),
    )
  }
  check(
    'KVM_SET_IDENTITY_MAP_ADDR takes all 8 bytes of u64',
    deFacto('KVM_SET_IDENTITY_MAP_ADDR'),
    (b) => b.vm(KVM.SET_IDENTITY_MAP_ADDR, new Uint8Array(7)),
    'EFAULT',
  )
})
