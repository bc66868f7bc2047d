import { KVM, mmioDataOffset } from 'kvitest'
import { describe } from 'vitest'
import { exitOf, outcomeOf } from './bench.ts'
import { check } from './check.ts'
import { deFacto, documented } from './claim.ts'
import { pack, u64 } from './struct.ts'

const ascii = (bytes: Uint8Array) => Buffer.from(bytes).toString('latin1')

describe('exits', () => {
  const area = documented('The kvm_run structure')
  check(
    'OUT exits with direction, size, port and data',
    area,
    async (b) => {
      await b.guest('io_out')
      const { io } = (await b.run()).area!
      return { ...io, data: ascii(io.data) }
    },
    { direction: 'out', size: 1, port: 0x10, count: 1, data: 'k' },
  )
  check(
    'OUT of a word exits with its two bytes',
    area,
    async (b) => {
      await b.guest('io_out')
      await b.run()
      const { io } = (await b.run()).area!
      return { ...io, data: [...io.data] }
    },
    { direction: 'out', size: 2, port: 0x20, count: 1, data: [0x34, 0x12] },
  )
  check(
    'IN gives the guest what is in kvm_run at the next run',
    area,
    async (b) => {
      const vcpu = await b.guest('io_in')
      const asked = (await b.run()).area!
      await vcpu.area.write(asked.ioDataOffset, Buffer.from('z'))
      const got = (await b.run()).area!
      return [asked.io.direction, got.io.direction, ascii(got.io.data)]
    },
    ['in', 'out', 'z'],
  )
  check(
    'string OUT gives all its bytes in order',
    area,
    async (b) => {
      await b.guest('io_string')
      let text = ''
      for (let answer = await b.run(); answer.area!.exit === 'io'; answer = await b.run())
        text += ascii(answer.area!.io.data)
      return text
    },
    'kvit',
  )
  check(
    'a write where there is no memory exits with address, size and data',
    area,
    async (b) => {
      await b.guest('mmio_write')
      const { mmio } = (await b.run()).area!
      return { ...mmio, data: ascii(mmio.data) }
    },
    { address: 0x8000n, isWrite: true, data: 'k' },
  )
  check(
    'a read where there is no memory gets what is in kvm_run at the next run',
    area,
    async (b) => {
      const vcpu = await b.guest('mmio_read')
      const asked = (await b.run()).area!
      await vcpu.area.write(mmioDataOffset, Buffer.from('m'))
      const got = (await b.run()).area!
      return [asked.mmio.isWrite, asked.mmio.address, ascii(got.io.data)]
    },
    [false, 0x8000n, 'm'],
  )
  check(
    'HLT exits when there is no irqchip',
    area,
    async (b) => {
      await b.guest('halt')
      return b.exits(2)
    },
    ['hlt', 'hlt'],
  )
  check(
    'HLT waits in the kernel when there is an irqchip',
    area,
    async (b) => {
      await b.guest('halt', { irqchip: true })
      const answer = await b.run({ deadline: 200 })
      return [answer.expired, answer.errno, (await b.get(KVM.GET_MP_STATE, 4))[0]]
    },
    [true, 'EINTR', 3],
  )
  check(
    'a triple fault is a shutdown',
    area,
    async (b) => {
      await b.guest('triple_fault')
      return b.exits(1)
    },
    ['shutdown'],
    [
      {
        where: { accelerator: 'software' },
        outcome: ['mmio'],
        why: 'its emulator does not look at the limit of the interrupt table in real mode',
      },
    ],
  )
  check(
    'CPUID does not exit',
    area,
    async (b) => {
      await b.guest('cpuid')
      return b.exits(2)
    },
    ['io', 'hlt'],
  )
  check(
    'RDMSR of an unknown MSR is a fault of the guest, not an exit',
    area,
    async (b) => {
      await b.guest('rdmsr')
      const [exit] = await b.exits(1)
      return exit === 'x86-rdmsr' || exit === 'io'
    },
    false,
  )
})

describe('the run protocol', () => {
  const run = documented('KVM_RUN')
  check(
    'immediate_exit keeps the vCPU out of the guest',
    documented('The kvm_run structure'),
    async (b) => {
      await b.guest('io_out')
      return [outcomeOf(await b.run({ immediateExit: true })), ...(await b.exits(1))]
    },
    ['EINTR', 'io'],
  )
  check(
    'immediate_exit completes the exit before',
    documented('The kvm_run structure'),
    async (b) => {
      await b.guest('io_out')
      await b.run()
      const answer = await b.run({ immediateExit: true })
      const rip = u64(await b.get(KVM.GET_REGS, 144), 128)
      return [answer.errno, rip]
    },
    ['EINTR', 0x1004n],
  )
  check(
    'immediate_exit leaves the exit reason of the run before',
    deFacto('The kvm_run structure'),
    async (b) => {
      await b.guest('io_out')
      await b.run()
      return (await b.run({ immediateExit: true })).area!.exit
    },
    'io',
  )
  check(
    'a signal ends KVM_RUN with EINTR and exit reason KVM_EXIT_INTR',
    run,
    async (b) => {
      const vcpu = await b.guest('spin')
      const running = b.run({ deadline: 20_000 })
      await b.kvm.signal(vcpu)
      const answer = await running
      return [outcomeOf(answer), answer.area!.exit]
    },
    ['EINTR', 'intr'],
  )
  check(
    'a storm of signals gives nothing but EINTR, and the guest goes on',
    run,
    async (b) => {
      const vcpu = await b.guest('count')
      const running = b.run({ repeat: 200, deadline: 60_000 })
      const sent = b.kvm.signal(vcpu, 1_000_000, { deadline: 60_000 })
      const { outcomes } = await running
      await sent
      const before = Buffer.from(await (await b.memory()).read(0x2000, 4)).readUInt32LE()
      await b.run({ deadline: 100 })
      const after = Buffer.from(await (await b.memory()).read(0x2000, 4)).readUInt32LE()
      return [outcomes, after > before]
    },
    [{ EINTR: 200 }, true],
  )
  check(
    'a vCPU without memory does not run',
    deFacto(run.section),
    async (b) => {
      await b.vcpuOf()
      return exitOf(await b.run())
    },
    'internal-error',
    [
      { where: { accelerator: 'software' }, outcome: 'ENOSPC', why: 'as Linux 6.1 does' },
      {
        where: { before: '6.9' },
        outcome: 'ENOSPC',
        why: 'until Linux 6.9 (f5238c2a60f1) the root of the page tables counted as a page of the VM, which has none',
      },
    ],
  )
  check(
    'registers are read and written between exits',
    documented('KVM_GET_REGS'),
    async (b) => {
      await b.guest('io_out')
      await b.run()
      const regs = await b.get(KVM.GET_REGS, 144)
      return u64(regs, 0) & 0xffn
    },
    BigInt('k'.charCodeAt(0)),
  )
})

describe('registers', () => {
  check(
    'the general registers come back as they were set',
    documented('KVM_SET_REGS'),
    async (b) => {
      const values = Array.from({ length: 17 }, (_, i) => BigInt(i + 1) * 0x0101_0101_0101n)
      const set = pack(...values.map((value) => ['u64', value] as ['u64', bigint]), ['u64', 2])
      const outcome = await b.vcpu(KVM.SET_REGS, set)
      return [outcome, Buffer.from(await b.get(KVM.GET_REGS, 144)).equals(set)]
    },
    [0, true],
  )
  check(
    'rflags bit 1 is always set',
    deFacto('KVM_SET_REGS'),
    async (b) => {
      await b.vcpu(KVM.SET_REGS, new Uint8Array(144))
      return u64(await b.get(KVM.GET_REGS, 144), 136)
    },
    2n,
  )
  check(
    'the special registers come back as they were got',
    documented('KVM_SET_SREGS'),
    async (b) => {
      const sregs = await b.get(KVM.GET_SREGS, 312)
      return [await b.vcpu(KVM.SET_SREGS, sregs), Buffer.from(await b.get(KVM.GET_SREGS, 312)).equals(sregs)]
    },
    [0, true],
  )
  check(
    'paging without protection is refused',
    deFacto('KVM_SET_SREGS'),
    async (b) => {
      // struct kvm_sregs: 8 segments of 24 bytes, 2 tables of 16, then cr0.
      const sregs = await b.get(KVM.GET_SREGS, 312)
      sregs.set(pack(['u64', 0x8000_0000]), 224)
      return b.vcpu(KVM.SET_SREGS, sregs)
    },
    'EINVAL',
  )
  check(
    'the FPU comes back as it was set',
    documented('KVM_SET_FPU'),
    async (b) => {
      const fpu = await b.get(KVM.GET_FPU, 416)
      fpu.set(new Uint8Array(128).fill(0x5a), 160)
      await b.vcpu(KVM.SET_FPU, fpu)
      return Buffer.from(await b.get(KVM.GET_FPU, 416)).equals(fpu)
    },
    true,
  )
  check(
    'a read into too little memory is EFAULT',
    documented('General description'),
    (b) => b.vcpu(KVM.GET_REGS, new Uint8Array(143)),
    'EFAULT',
  )
  check(
    'registers are read by other threads while nobody runs the vCPU',
    documented('File descriptors'),
    async (b) => {
      const { fd } = await b.guest('spin')
      const read = (thread: string) =>
        ({
          do: 'ioctl',
          fd: fd.handle,
          request: KVM.GET_REGS,
          argument: new Uint8Array(144),
          repeat: 200,
          thread,
        }) as const
      const results = await b.kvm.batch([[read('a'), read('b'), read('c')]])
      return results.map((result) => result.outcomes)
    },
    [{ ok: 200 }, { ok: 200 }, { ok: 200 }],
  )
})
