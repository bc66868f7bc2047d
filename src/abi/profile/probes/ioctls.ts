import { catalogue, type Ioctl } from '../../catalogue/catalogue.ts'
import type { FdKind } from '../../catalogue/types.ts'
import { type Entries, outcomeOf, type ProbeSession } from '../session.ts'

/** Not asked blindly: it runs a guest; what it says is under `exit.`. */
const unsafe = new Set(['KVM_RUN'])

/** Fds that api.rst does not name and the kernel does. */
const alsoOn: Record<string, FdKind[]> = {
  KVM_ENABLE_CAP: ['vcpu'],
  KVM_MEMORY_ENCRYPT_REG_REGION: ['vm'],
  KVM_MEMORY_ENCRYPT_UNREG_REGION: ['vm'],
}

/** They change nothing that another of them sees, so they share one VM. */
const leavesNothing = /^KVM_(GET|CHECK|TRANSLATE|HAS|SIGNAL|XEN_\w+_GET)_?/

interface Probe {
  name: string
  kind: 'sys' | 'vm' | 'vcpu'
  /** `null`: no argument at all, or 0; `zero`: a structure of zeros. */
  how: 'null' | 'zero'
}

function isForX86(ioctl: Ioctl): boolean {
  const { arch } = ioctl
  return ioctl.request !== undefined && (arch.length === 0 || arch.includes('all') || arch.includes('x86'))
}

function probes(): Probe[] {
  return catalogue.ioctls
    .filter((ioctl) => isForX86(ioctl) && !unsafe.has(ioctl.name))
    .flatMap(({ name, fd }) =>
      [...new Set([...fd, ...(alsoOn[name] ?? [])])]
        .filter((kind) => kind !== 'dev')
        .flatMap((kind) => {
          const isStruct = catalogue.argumentSize(name) > 0
          const both: Probe[] = [{ name, kind, how: 'null' }]
          return isStruct ? [...both, { name, kind, how: 'zero' as const }] : both
        }),
    )
}

function askOf({ name, how }: Probe) {
  return { ioctl: name, argument: how === 'zero' ? new Uint8Array(catalogue.argumentSize(name)) : 0 }
}

/**
 * What each ioctl of x86 answers without an argument (EFAULT: it is there and takes one; ENOTTY, and EINVAL on /dev/kvm
 * and a vCPU: it is not there) and to a structure of zeros. Those that change a VM get one of their own.
 */
export async function ioctls(session: ProbeSession): Promise<Entries> {
  const entries: Entries = {}
  const all = probes()
  const shared = all.filter(({ name, kind }) => kind === 'sys' || leavesNothing.test(name))
  const alone = all.filter((probe) => !shared.includes(probe))
  const keyOf = ({ name, kind, how }: Probe) => `ioctl.${name}.${kind}.${how}`
  await session.withVcpu(async (vcpu, vm) => {
    const fds = { sys: session.system, vm, vcpu }
    const results = await session.ask(shared.map((probe) => ({ ...askOf(probe), fd: fds[probe.kind] })))
    for (const [i, probe] of shared.entries()) entries[keyOf(probe)] = answerOf(probe, outcomeOf(results[i]!))
  })
  const results = await session.askFresh(
    alone.map((probe) => ({ ...askOf(probe), kind: probe.kind as 'vm' | 'vcpu' })),
  )
  for (const [i, probe] of alone.entries()) entries[keyOf(probe)] = answerOf(probe, outcomeOf(results[i]!))
  return entries
}

/** A value that is asked for is under its own key; here it counts that there is one. */
function answerOf({ name }: Probe, outcome: number | string): number | string {
  if (typeof outcome === 'string') return outcome
  return /_GET_/.test(name) && outcome > 0 ? 'ok' : outcome
}
