import { guestCode } from '../../../host/raw/guest-code.ts'
import { RawFd, type RawVcpu } from '../../../host/raw/kvm.ts'
import { catalogue } from '../../catalogue/catalogue.ts'
import { type Entries, hex, outcomeOf, type ProbeSession, patience, structure } from '../session.ts'

/** Bare guests of fixtures/guests/raw that leave by themselves, and how many exits of each are looked at. */
const guests = {
  io_out: 3,
  io_in: 2,
  io_string: 1,
  mmio_read: 2,
  mmio_write: 1,
  halt: 1,
  cpuid: 1,
  rdmsr: 1,
  store: 1,
  triple_fault: 1,
} as const

const memoryBytes = 0x8000

async function enter(session: ProbeSession, guest: string, vcpu: RawVcpu, vm: number): Promise<void> {
  const code = await guestCode(guest)
  const memory = await session.kvm.memory(memoryBytes)
  await memory.write(code.entry, code.bytes)
  await session.ask([
    // The exception that an unknown MSR raises would be for the guest to handle, and it has no handler.
    {
      fd: vm,
      ioctl: 'KVM_ENABLE_CAP',
      argument: structure('kvm_enable_cap', {
        cap: catalogue.capability('KVM_CAP_X86_USER_SPACE_MSR').value,
        args: catalogue.constant('KVM_MSR_EXIT_REASON_UNKNOWN'),
      }),
    },
    {
      fd: vm,
      ioctl: 'KVM_SET_USER_MEMORY_REGION',
      argument: structure('kvm_userspace_memory_region', { memory_size: memoryBytes }),
      patches: [
        { at: catalogue.field('kvm_userspace_memory_region', 'userspace_addr')[0], memory: memory.handle },
      ],
    },
  ])
  const sregs = await session.get(vcpu.fd.handle, 'KVM_GET_SREGS', structure('kvm_sregs', {}))
  if (typeof sregs === 'string') return
  // The first field is cs: real mode from address 0.
  structure('kvm_segment', { base: 0, selector: 0 }, sregs)
  await session.ask([
    { fd: vcpu.fd.handle, ioctl: 'KVM_SET_SREGS', argument: sregs },
    {
      fd: vcpu.fd.handle,
      ioctl: 'KVM_SET_REGS',
      argument: structure('kvm_regs', { rip: code.entry, rflags: 2 }),
    },
  ])
}

/** The exits of a guest (`io`, `hlt`, an errno...) and where RIP was at the first. */
async function exitsOf(
  session: ProbeSession,
  guest: string,
  count: number,
  hasCode: boolean,
): Promise<Entries> {
  return session.withVcpu(async (fd, vm) => {
    const { memory: area } = await session.kvm.map(new RawFd(fd), session.areaSize)
    const vcpu: RawVcpu = { fd: new RawFd(fd), area: area!, thread: `exits of ${guest}` }
    if (hasCode) await enter(session, guest, vcpu, vm)
    const exits: string[] = []
    const entries: Entries = {}
    for (let i = 0; i < count; i++) {
      const answer = await session.kvm.run(vcpu, { deadline: patience })
      const outcome = outcomeOf(answer)
      exits.push(outcome === 0 && answer.area ? answer.area.exit : String(outcome))
      if (typeof outcome === 'string') break
      // Of a shutdown what RIP is then is nobody's business.
      if (i > 0 || !['io', 'mmio', 'hlt', 'x86-rdmsr'].includes(exits[0]!)) continue
      const regs = await session.get(fd, 'KVM_GET_REGS', structure('kvm_regs', {}))
      if (typeof regs === 'string') continue
      const rip = new DataView(regs.buffer, regs.byteOffset).getBigUint64(
        catalogue.field('kvm_regs', 'rip')[0],
        true,
      )
      entries[`exit.${guest}.rip`] = hex(rip)
    }
    return { ...entries, [`exit.${guest}`]: exits.join(' ') }
  })
}

/** How KVM_RUN leaves bare guests in real mode, without an irqchip. */
export async function exits(session: ProbeSession): Promise<Entries> {
  // Side by side, each on its vCPU's thread: one that hangs costs its deadline once.
  const found = await Promise.all([
    exitsOf(session, 'no_memory', 1, false),
    ...Object.entries(guests).map(([guest, count]) => exitsOf(session, guest, count, true)),
  ])
  return Object.assign({}, ...found) as Entries
}
