import {
  constant,
  fieldOf,
  ioctlCall,
  KVM,
  type RawFd,
  type RawStep,
  type RawVcpu,
  sizeOf,
  structOf,
  withFields,
} from 'kvitest'
import { describe } from 'vitest'
import { type Bench, exitOf, outcomeOf } from './bench.ts'
import { check } from './check.ts'
import { deFacto, documented } from './claim.ts'
import { type Counting, counterAt, countsOn, startCounting } from './counting.ts'

const threads = documented('File descriptors')

type Ioctl = Extract<Exclude<RawStep, unknown[]>, { do: 'ioctl' }>

/** The same ioctl, or one a thread, begun by `count` threads at once; how each ended, in the order of names. */
async function atOnce(b: Bench, count: number, call: (i: number) => Omit<Ioctl, 'do'>): Promise<string[]> {
  const calls = Array.from(
    { length: count },
    (_, i) => ({ do: 'ioctl', ...call(i), thread: `thread ${i}` }) as const,
  )
  const results = await b.kvm.batch([calls])
  return results.map((result) => String(outcomeOf(result))).sort()
}

const region = (slot: number, at: number, bytes = 0x4000, flags = 0) =>
  structOf('kvm_userspace_memory_region', { slot, guest_phys_addr: at, memory_size: bytes, flags })

/** Of the region's userspace_addr. */
const userspaceAddr = 24

const oneOf = (count: number, others: string) => ['0', ...Array<string>(count - 1).fill(others)]

describe('made by several threads at once', () => {
  check(
    'vCPUs of several ids: all are made',
    documented('KVM_CREATE_VCPU'),
    async (b) => {
      const fd = (await b.vmFd()).handle
      const made = await atOnce(b, 8, (id) => ({
        fd,
        request: KVM.CREATE_VCPU,
        argument: id,
        as: b.kvm.nextHandle(),
      }))
      const again = await Promise.all(made.map((_, id) => b.vm(KVM.CREATE_VCPU, id)))
      return [made, again]
    },
    [Array(8).fill('0'), Array(8).fill('EEXIST')],
  )
  check(
    'irqchips: one is made',
    documented('KVM_CREATE_IRQCHIP'),
    async (b) => {
      const fd = (await b.vmFd()).handle
      return atOnce(b, 4, () => ({ fd, request: KVM.CREATE_IRQCHIP }))
    },
    oneOf(4, 'EEXIST'),
  )
  check(
    'an irqchip and a vCPU: the vCPU has a LAPIC if, and only if, the irqchip is made',
    deFacto('KVM_CREATE_IRQCHIP'),
    async (b) => {
      const lapic = new Uint8Array(sizeOf('kvm_lapic_state'))
      const round = (): RawStep[] => {
        const [vm, vcpu] = [b.kvm.nextHandle(), b.kvm.nextHandle()]
        return [
          { do: 'ioctl', fd: b.system.handle, request: KVM.CREATE_VM, as: vm },
          [
            { do: 'ioctl', fd: vm, request: KVM.CREATE_IRQCHIP, thread: 'thread 0' },
            { do: 'ioctl', fd: vm, request: KVM.CREATE_VCPU, argument: 0, as: vcpu, thread: 'thread 1' },
          ],
          { do: 'ioctl', fd: vcpu, request: KVM.GET_LAPIC, argument: lapic },
          { do: 'close', fd: vcpu },
          { do: 'close', fd: vm },
        ]
      }
      const results = await b.kvm.batch(Array.from({ length: 20 }, round).flat())
      const seen = results.map(outcomeOf)
      const rounds = Array.from({ length: 20 }, (_, i) => seen.slice(6 * i + 1, 6 * i + 4).join(' '))
      return rounds.filter((one) => one !== '0 0 0' && one !== 'EINVAL 0 EINVAL')
    },
    [],
  )
  check(
    'memslots that overlap: one is made',
    documented('KVM_SET_USER_MEMORY_REGION'),
    async (b) => {
      const fd = (await b.vmFd()).handle
      const patches = [{ at: userspaceAddr, memory: (await b.memory()).handle }]
      const request = KVM.SET_USER_MEMORY_REGION
      return atOnce(b, 4, (slot) => ({ fd, request, argument: region(slot, 0x1000 * slot), patches }))
    },
    oneOf(4, 'EEXIST'),
  )
  check(
    'memslots side by side: all are made',
    documented('KVM_SET_USER_MEMORY_REGION'),
    async (b) => {
      const fd = (await b.vmFd()).handle
      const patches = [{ at: userspaceAddr, memory: (await b.memory()).handle }]
      const request = KVM.SET_USER_MEMORY_REGION
      return atOnce(b, 8, (slot) => ({ fd, request, argument: region(slot, 0x4000 * slot), patches }))
    },
    Array(8).fill('0'),
  )
  check(
    'devices of VFIO: one is made',
    deFacto('KVM_CREATE_DEVICE'),
    async (b) => {
      const fd = (await b.vmFd()).handle
      const argument = structOf('kvm_create_device', { type: constant('KVM_DEV_TYPE_VFIO') })
      return atOnce(b, 4, () => ({ fd, request: KVM.CREATE_DEVICE, argument, as: b.kvm.nextHandle() }))
    },
    oneOf(4, 'EBUSY'),
  )
  check(
    'irqfds of one eventfd: one is made',
    deFacto('KVM_IRQFD'),
    async (b) => {
      await b.vm(KVM.CREATE_IRQCHIP)
      const fd = (await b.vmFd()).handle
      const patches = [{ at: 0, fd: (await b.kvm.eventfd()).handle }]
      const argument = structOf('kvm_irqfd', { gsi: 4 })
      return atOnce(b, 4, () => ({ fd, request: KVM.IRQFD, argument, patches }))
    },
    oneOf(4, 'EBUSY'),
  )
  check(
    'ioeventfds of one port: one is made',
    deFacto('KVM_IOEVENTFD'),
    async (b) => {
      const fd = (await b.vmFd()).handle
      const eventfds: RawFd[] = []
      for (let i = 0; i < 4; i++) eventfds.push(await b.kvm.eventfd())
      const flags = constant('KVM_IOEVENTFD_FLAG_PIO')
      const argument = structOf('kvm_ioeventfd', { addr: 0x10, len: 1, flags })
      return atOnce(b, 4, (i) => ({
        fd,
        request: KVM.IOEVENTFD,
        argument,
        patches: [{ at: 20, fd: eventfds[i]!.handle }],
      }))
    },
    oneOf(4, 'EEXIST'),
  )
})

/** Makes the calls while a guest counts; whether it counted on after them, and how KVM_RUN ended. */
async function whileCounting<T>(
  b: Bench,
  calls: (counting: Counting) => Promise<T>,
): Promise<[T, boolean, string | number]> {
  const counting = await startCounting(b)
  const seen = await calls(counting)
  const after = await counting.goesOn()
  await b.kvm.signal(counting.vcpu)
  return [seen, after, outcomeOf(await counting.ended)]
}

/** An ioctl that another thread makes on a vCPU that runs: whether it was answered before the run ended. */
async function untilRunEnds(b: Bench, request: number, argument: Uint8Array) {
  const { vcpu, ended, goesOn } = await startCounting(b)
  let isAnswered = false
  const answer = b.kvm
    .ioctl(vcpu.fd, request, argument, { thread: 'other', deadline: 50_000 })
    .finally(() => {
      isAnswered = true
    })
  // Nothing says when the other thread has come to wait; a call that does not wait is over long before these.
  for (let i = 0; i < 20; i++) await goesOn()
  const early = isAnswered
  await b.kvm.signal(vcpu)
  const run = outcomeOf(await ended)
  return { early, run, answer: await answer }
}

const log = constant('KVM_MEM_LOG_DIRTY_PAGES')

/** One memslot and then the other, fifty times; what came out, each once. */
async function againAndAgain(b: Bench, one: Uint8Array, other: Uint8Array) {
  const vm = await b.vmFd()
  const patches = [{ at: userspaceAddr, memory: await b.memory() }]
  const set = (slot: Uint8Array) => ioctlCall(vm, KVM.SET_USER_MEMORY_REGION, slot, { patches })
  const steps = Array.from({ length: 50 }, () => [set(one), set(other)]).flat()
  return [...new Set((await b.kvm.batch(steps)).map(outcomeOf))]
}

describe('while a vCPU runs', () => {
  check(
    'KVM_GET_REGS of another thread waits for the end of the run',
    deFacto('KVM_RUN'),
    async (b) => {
      const { early, run, answer } = await untilRunEnds(b, KVM.GET_REGS, new Uint8Array(sizeOf('kvm_regs')))
      const rip = fieldOf(answer.data!, 'kvm_regs', 'rip')
      return [early, run, outcomeOf(answer), rip >= 0x1000n && rip < 0x1100n]
    },
    [false, 'EINTR', 0, true],
  )
  check(
    'KVM_SET_REGS of another thread waits for the end of the run, and holds',
    deFacto('KVM_RUN'),
    async (b) => {
      await b.guest('count')
      const regs = withFields(await b.get(KVM.GET_REGS, sizeOf('kvm_regs')), 'kvm_regs', { rbx: 0x51 })
      const { early, run, answer } = await untilRunEnds(b, KVM.SET_REGS, regs)
      const after = await b.get(KVM.GET_REGS, sizeOf('kvm_regs'))
      return [early, run, outcomeOf(answer), fieldOf(after, 'kvm_regs', 'rbx')]
    },
    [false, 'EINTR', 0, 0x51n],
  )
  check(
    'KVM_RUN of another thread waits for the end of the run, and goes on with it',
    deFacto('KVM_RUN'),
    async (b) => {
      const first = await startCounting(b)
      const again: RawVcpu = { ...first.vcpu, thread: 'other' }
      const second = b.kvm.run(again, { deadline: 50_000 })
      await b.kvm.signal(first.vcpu)
      const ended = outcomeOf(await first.ended)
      const after = await countsOn(b, second)()
      await b.kvm.signal(again)
      return [ended, after, outcomeOf(await second)]
    },
    ['EINTR', true, 'EINTR'],
  )
  check(
    'another vCPU answers, and is changed',
    threads,
    async (b) => {
      const other = await b.addVcpu(1)
      return whileCounting(b, async () => {
        const { data } = await b.kvm.ioctl(other.fd, KVM.GET_REGS, new Uint8Array(sizeOf('kvm_regs')))
        const set = withFields(data!, 'kvm_regs', { rbx: 0x51 })
        return outcomeOf(await b.kvm.ioctl(other.fd, KVM.SET_REGS, set))
      })
    },
    [0, true, 'EINTR'],
  )
  check(
    'another vCPU is made, and runs beside it',
    documented('KVM_CREATE_VCPU'),
    async (b) =>
      whileCounting(b, async () => {
        const other = await b.addVcpu(1)
        const sregs = (await b.kvm.ioctl(other.fd, KVM.GET_SREGS, new Uint8Array(sizeOf('kvm_sregs')))).data!
        const cs = withFields(sregs.slice(0, sizeOf('kvm_segment')), 'kvm_segment', { base: 0, selector: 0 })
        await b.kvm.ioctl(other.fd, KVM.SET_SREGS, withFields(sregs, 'kvm_sregs', { cs }))
        const regs = structOf('kvm_regs', { rip: 0x1000, rflags: 2 })
        await b.kvm.ioctl(other.fd, KVM.SET_REGS, regs)
        const running = b.kvm.run(other, { deadline: 50_000 })
        await b.kvm.signal(other)
        return outcomeOf(await running)
      }),
    ['EINTR', true, 'EINTR'],
  )
  check(
    'calls of the VM are answered',
    deFacto('KVM_RUN'),
    async (b) => {
      await b.vm(KVM.CREATE_IRQCHIP)
      return whileCounting(b, async () => [
        await b.vm(KVM.GET_CLOCK, new Uint8Array(sizeOf('kvm_clock_data'))),
        await b.vm(KVM.IRQ_LINE, structOf('kvm_irq_level', { irq: 4, level: 1 })),
        await b.vm(KVM.GET_IRQCHIP, structOf('kvm_irqchip', { chip_id: 2 })),
        await b.vm(KVM.SET_GSI_ROUTING, structOf('kvm_irq_routing', { nr: 0 })),
      ])
    },
    [[0, 0, 0, 0], true, 'EINTR'],
  )
  check(
    'a memslot comes and goes, again and again',
    documented('KVM_SET_USER_MEMORY_REGION'),
    async (b) =>
      whileCounting(b, async () => {
        return againAndAgain(b, region(1, 0x10_0000), region(1, 0x10_0000, 0))
      }),
    [[0], true, 'EINTR'],
  )
  check(
    'its memslot gets a dirty log and loses it, again and again',
    documented('KVM_SET_USER_MEMORY_REGION'),
    async (b) =>
      whileCounting(b, async () => {
        return againAndAgain(b, region(0, 0, 0x8000, log), region(0, 0, 0x8000))
      }),
    [[0], true, 'EINTR'],
  )
  check(
    'the dirty log has what it wrote since the last one',
    documented('KVM_GET_DIRTY_LOG'),
    async (b) =>
      whileCounting(b, async ({ goesOn }) => {
        await b.slot({ bytes: 0x8000, flags: log })
        const bitmap = await b.kvm.memory(4096)
        const seen: number[] = []
        for (let i = 0; i < 3; i++) {
          await goesOn()
          await b.vm(KVM.GET_DIRTY_LOG, structOf('kvm_dirty_log'), { patches: [{ at: 8, memory: bitmap }] })
          seen.push((await bitmap.read(0, 1))[0]!)
        }
        return seen
      }),
    [[1 << (counterAt >> 12), 1 << (counterAt >> 12), 1 << (counterAt >> 12)], true, 'EINTR'],
  )
  check(
    'memory that is taken away is gone at once',
    documented('KVM_SET_USER_MEMORY_REGION'),
    async (b) => {
      const { ended, goesOn } = await startCounting(b)
      const taken = await b.slot({ bytes: 0 })
      const after = await goesOn()
      // What it cannot reach first: its code, or its counter.
      const isOut = ['internal-error', 'mmio'].includes(String(exitOf(await ended)))
      return [taken, after, isOut]
    },
    [0, false, true],
  )
  check(
    'three threads ask for its registers while signals end its runs: each is answered',
    deFacto('KVM_RUN'),
    async (b) => {
      const vcpu = await b.guest('count')
      const running = b.run({ repeat: 200, deadline: 50_000 })
      const sent = b.kvm.signal(vcpu, 1_000_000, { deadline: 50_000 })
      const ask = (thread: string) =>
        ({
          do: 'ioctl',
          fd: vcpu.fd.handle,
          request: KVM.GET_REGS,
          argument: new Uint8Array(sizeOf('kvm_regs')),
          repeat: 50,
          thread,
          deadline: 50_000,
        }) as const
      const results = await b.kvm.batch([[ask('a'), ask('b'), ask('c')]])
      const { outcomes } = await running
      await sent
      return [outcomes, ...results.map((result) => result.outcomes)]
    },
    [{ EINTR: 200 }, { ok: 50 }, { ok: 50 }, { ok: 50 }],
  )
})
