import { CAP, KVM, type RawFd, structOf } from 'kvitest'
import { describe } from 'vitest'
import type { Bench, Outcome } from './bench.ts'
import { outcomeOf } from './bench.ts'
import { check } from './check.ts'
import { deFacto, documented, type Exception } from './claim.ts'
import { pack } from './struct.ts'

/** struct kvm_irqfd without its fd. */
const irqfd = (gsi: number, flags = 0) => pack(['u32', 0], ['u32', gsi], ['u32', flags], ['pad', 20])

async function assignIrqfd(b: Bench, fd: RawFd, gsi: number, flags = 0): Promise<Outcome> {
  return b.vm(KVM.IRQFD, irqfd(gsi, flags), { patches: [{ at: 0, fd }] })
}

const pio = 2
const datamatch = 1
const deassign = 4

interface Ioevent {
  fd: RawFd
  length?: number
  flags?: number
  match?: number
}

/** KVM_IOEVENTFD on port 0x10. */
async function ioeventfd(b: Bench, { fd, length = 1, flags = pio, match = 0 }: Ioevent): Promise<Outcome> {
  const event = pack(['u64', match], ['u64', 0x10], ['u32', length], ['u32', 0], ['u32', flags], ['pad', 36])
  return b.vm(KVM.IOEVENTFD, event, { patches: [{ at: 20, fd }] })
}

const count = async (b: Bench, fd: RawFd) => {
  const answer = await b.kvm.readFd(fd, 8)
  return answer.data ? Buffer.from(answer.data).readUInt32LE() : outcomeOf(answer)
}

const twoInterrupts = async (b: Bench) => [
  await b.vcpu(KVM.INTERRUPT, pack(['u32', 32])),
  await b.vcpu(KVM.INTERRUPT, pack(['u32', 33])),
]

const oldPit: Exception[] = [
  {
    where: { before: '6.8' },
    outcome: 0,
    why: 'until 9e05d9b06757 KVM makes a PIT that nothing can use',
  },
]

describe('interrupt controllers', () => {
  const irqchip = documented('KVM_CREATE_IRQCHIP')
  check(
    'the irqchip is made once',
    irqchip,
    async (b) => [await b.vm(KVM.CREATE_IRQCHIP), await b.vm(KVM.CREATE_IRQCHIP)],
    [0, 'EEXIST'],
  )
  check(
    'the irqchip comes before the first vCPU',
    deFacto(irqchip.section),
    async (b) => [await b.vm(KVM.CREATE_VCPU, 0), await b.vm(KVM.CREATE_IRQCHIP)],
    [0, 'EINVAL'],
  )
  check(
    'the PIT needs the irqchip',
    deFacto('KVM_CREATE_PIT2'),
    (b) => b.vm(KVM.CREATE_PIT2, new Uint8Array(64)),
    'ENOENT',
    oldPit,
  )
  check(
    'the PIT is made once',
    documented('KVM_CREATE_PIT2'),
    async (b) => {
      await b.vm(KVM.CREATE_IRQCHIP)
      return [
        await b.vm(KVM.CREATE_PIT2, new Uint8Array(64)),
        await b.vm(KVM.CREATE_PIT2, new Uint8Array(64)),
      ]
    },
    [0, 'EEXIST'],
  )
  check(
    'unknown flags of the PIT are not looked at',
    deFacto('KVM_CREATE_PIT2'),
    async (b) => {
      await b.vm(KVM.CREATE_IRQCHIP)
      return b.vm(KVM.CREATE_PIT2, pack(['u32', 0x8000_0000], ['pad', 60]))
    },
    0,
  )
  check(
    'there is no line without an irqchip',
    documented('KVM_IRQ_LINE'),
    (b) => b.vm(KVM.IRQ_LINE, pack(['u32', 4], ['u32', 1])),
    'ENXIO',
  )
  check(
    'a line goes up and down',
    documented('KVM_IRQ_LINE'),
    async (b) => {
      await b.vm(KVM.CREATE_IRQCHIP)
      return [
        await b.vm(KVM.IRQ_LINE, pack(['u32', 4], ['u32', 1])),
        await b.vm(KVM.IRQ_LINE, pack(['u32', 4], ['u32', 0])),
      ]
    },
    [0, 0],
  )
  check(
    'there is no LAPIC without an irqchip',
    deFacto('KVM_GET_LAPIC'),
    (b) => b.vcpu(KVM.GET_LAPIC, new Uint8Array(1024)),
    'EINVAL',
  )
  check(
    'KVM_INTERRUPT takes vectors below 256',
    documented('KVM_INTERRUPT'),
    (b) => b.vcpu(KVM.INTERRUPT, pack(['u32', 256])),
    'EINVAL',
  )
  check(
    'KVM_INTERRUPT is refused with an irqchip',
    documented('KVM_INTERRUPT'),
    async (b) => {
      await b.vm(KVM.CREATE_IRQCHIP)
      return b.vcpu(KVM.INTERRUPT, pack(['u32', 32]))
    },
    'ENXIO',
  )
  check(
    'without a LAPIC KVM_INTERRUPT takes the place of one that waits (the documentation says EEXIST)',
    deFacto('KVM_INTERRUPT'),
    twoInterrupts,
    [0, 0],
  )
  check(
    'with a LAPIC in the kernel and the PIC outside a second KVM_INTERRUPT is refused while one waits',
    documented('KVM_INTERRUPT'),
    async (b) => {
      await b.vm(KVM.ENABLE_CAP, structOf('kvm_enable_cap', { cap: CAP.SPLIT_IRQCHIP, args: [24] }))
      return twoInterrupts(b)
    },
    [0, 'EEXIST'],
  )
  check(
    'an MSI needs the irqchip',
    deFacto('KVM_SIGNAL_MSI'),
    (b) => b.vm(KVM.SIGNAL_MSI, pack(['u64', 0xfee0_0000], ['pad', 24])),
    'EINVAL',
  )
  check(
    'unknown flags of an MSI are refused',
    deFacto('KVM_SIGNAL_MSI'),
    async (b) => {
      await b.vm(KVM.CREATE_IRQCHIP)
      return b.vm(KVM.SIGNAL_MSI, pack(['u64', 0xfee0_0000], ['u32', 0], ['u32', 0x8000_0000], ['pad', 16]))
    },
    'EINVAL',
  )
})

describe('routing', () => {
  const routing = documented('KVM_SET_GSI_ROUTING')
  const withChip = (table: Uint8Array) => async (b: Bench) => {
    await b.vm(KVM.CREATE_IRQCHIP)
    return b.vm(KVM.SET_GSI_ROUTING, table)
  }
  check('an empty table is taken', routing, withChip(pack(['u32', 0], ['u32', 0])), 0)
  check(
    'routing needs the irqchip',
    deFacto(routing.section),
    (b) => b.vm(KVM.SET_GSI_ROUTING, pack(['u32', 0], ['u32', 0])),
    'EINVAL',
  )
  check('unknown flags of the table are refused', routing, withChip(pack(['u32', 0], ['u32', 1])), 'EINVAL')
  check(
    'a table of more than 4096 entries is refused',
    deFacto(routing.section),
    withChip(pack(['u32', 4097], ['u32', 0])),
    'EINVAL',
  )
  check(
    'an entry of an unknown type is refused',
    routing,
    withChip(pack(['u32', 1], ['u32', 0], ['u32', 4], ['u32', 99], ['pad', 40])),
    'EINVAL',
  )
  check(
    'unknown flags of an entry are refused',
    routing,
    withChip(pack(['u32', 1], ['u32', 0], ['u32', 4], ['u32', 1], ['u32', 0x80], ['pad', 36])),
    'EINVAL',
  )
})

describe('irqfd', () => {
  const section = documented('KVM_IRQFD')
  const chip = async (b: Bench) => {
    await b.vm(KVM.CREATE_IRQCHIP)
    return b.kvm.eventfd()
  }
  check(
    'an eventfd is assigned and deassigned',
    section,
    async (b) => {
      const fd = await chip(b)
      return [await assignIrqfd(b, fd, 4), await assignIrqfd(b, fd, 4, 1)]
    },
    [0, 0],
  )
  check(
    'an eventfd is assigned once',
    deFacto(section.section),
    async (b) => {
      const fd = await chip(b)
      return [await assignIrqfd(b, fd, 4), await assignIrqfd(b, fd, 5)]
    },
    [0, 'EBUSY'],
  )
  check('unknown flags are refused', section, async (b) => assignIrqfd(b, await chip(b), 4, 0x80), 'EINVAL')
  check(
    'an fd that is no eventfd is refused',
    deFacto(section.section),
    async (b) => {
      await chip(b)
      return assignIrqfd(b, b.system, 4)
    },
    'EINVAL',
  )
  check(
    'an fd that is not open is refused',
    deFacto(section.section),
    async (b) => {
      await chip(b)
      return b.vm(KVM.IRQFD, pack(['u32', 0xffff_ffff], ['u32', 4], ['pad', 24]))
    },
    'EBADF',
  )
  check(
    'irqfd needs the irqchip',
    deFacto(section.section),
    async (b) => assignIrqfd(b, await b.kvm.eventfd(), 4),
    'EINVAL',
  )
  check(
    'KVM takes what is written to the eventfd',
    section,
    async (b) => {
      const fd = await chip(b)
      await assignIrqfd(b, fd, 4)
      await b.kvm.writeFd(fd, pack(['u64', 1]))
      return count(b, fd)
    },
    'EAGAIN',
  )
})

describe('ioeventfd', () => {
  const section = documented('KVM_IOEVENTFD')
  check(
    'a write to the port signals the eventfd and does not exit',
    section,
    async (b) => {
      await b.guest('io_out')
      const fd = await b.kvm.eventfd()
      const outcome = await ioeventfd(b, { fd })
      const { io } = (await b.run()).area!
      return [outcome, io.port, await count(b, fd)]
    },
    [0, 0x20, 1],
  )
  check(
    'only the value that is to match signals',
    section,
    async (b) => {
      await b.guest('io_out')
      const [hit, missed] = [await b.kvm.eventfd(), await b.kvm.eventfd()]
      await ioeventfd(b, { fd: hit, flags: pio | datamatch, match: 'k'.charCodeAt(0) })
      await ioeventfd(b, { fd: missed, flags: pio | datamatch, match: 'x'.charCodeAt(0) })
      const { io } = (await b.run()).area!
      return [io.port, await count(b, hit), await count(b, missed)]
    },
    [0x20, 1, 'EAGAIN'],
  )
  check(
    'a write of another size exits',
    section,
    async (b) => {
      await b.guest('io_out')
      const fd = await b.kvm.eventfd()
      await ioeventfd(b, { fd, length: 4 })
      const { io } = (await b.run()).area!
      return [io.port, await count(b, fd)]
    },
    [0x10, 'EAGAIN'],
  )
  check(
    'a deassigned one is gone',
    section,
    async (b) => {
      await b.guest('io_out')
      const fd = await b.kvm.eventfd()
      const outcomes = [await ioeventfd(b, { fd }), await ioeventfd(b, { fd, flags: pio | deassign })]
      const { io } = (await b.run()).area!
      return [...outcomes, io.port]
    },
    [0, 0, 0x10],
  )
  check(
    'one that is not there is not deassigned',
    section,
    async (b) => ioeventfd(b, { fd: await b.kvm.eventfd(), flags: pio | deassign }),
    'ENOENT',
  )
  check(
    'two on one port collide',
    deFacto(section.section),
    async (b) => [
      await ioeventfd(b, { fd: await b.kvm.eventfd() }),
      await ioeventfd(b, { fd: await b.kvm.eventfd() }),
    ],
    [0, 'EEXIST'],
  )
  check(
    'unknown flags are refused',
    section,
    async (b) => ioeventfd(b, { fd: await b.kvm.eventfd(), flags: 0x8000_0000 }),
    'EINVAL',
  )
  check(
    'the length is 0, 1, 2, 4 or 8',
    section,
    async (b) => ioeventfd(b, { fd: await b.kvm.eventfd(), length: 3 }),
    'EINVAL',
  )
})
