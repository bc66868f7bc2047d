import { KVM } from 'kvitest'
import { describe } from 'vitest'
import { check } from './check.ts'
import { deFacto, documented } from './claim.ts'
import { changed, pack, u32 } from './struct.ts'

describe('capabilities', () => {
  const enable = documented('KVM_ENABLE_CAP')
  const cap = (number: number, flags = 0) => pack(['u32', number], ['u32', flags], ['pad', 96])
  check('a VM refuses an unknown capability', enable, (b) => b.vm(KVM.ENABLE_CAP, cap(0x7fff_ffff)), 'EINVAL')
  check(
    'a vCPU refuses an unknown capability',
    enable,
    (b) => b.vcpu(KVM.ENABLE_CAP, cap(0x7fff_ffff)),
    'EINVAL',
  )
  check('a VM refuses flags of a capability', enable, (b) => b.vm(KVM.ENABLE_CAP, cap(168, 1)), 'EINVAL')
})

describe('state of a vCPU', () => {
  const mp = documented('KVM_SET_MP_STATE')
  check(
    'a vCPU begins runnable',
    documented('KVM_GET_MP_STATE'),
    async (b) => u32(await b.get(KVM.GET_MP_STATE, 4), 0),
    0,
  )
  check(
    'without irqchip a vCPU is runnable only',
    deFacto(mp.section),
    (b) => b.vcpu(KVM.SET_MP_STATE, pack(['u32', 3])),
    'EINVAL',
  )
  check(
    'an unknown state is refused',
    deFacto(mp.section),
    async (b) => {
      await b.vm(KVM.CREATE_IRQCHIP)
      return b.vcpu(KVM.SET_MP_STATE, pack(['u32', 99]))
    },
    'EINVAL',
  )
  check(
    'with irqchip a halted vCPU stays halted',
    mp,
    async (b) => {
      await b.vm(KVM.CREATE_IRQCHIP)
      await b.vcpu(KVM.SET_MP_STATE, pack(['u32', 3]))
      return u32(await b.get(KVM.GET_MP_STATE, 4), 0)
    },
    3,
  )

  const events = documented('KVM_SET_VCPU_EVENTS')
  check(
    'events come back as they were got',
    events,
    async (b) => {
      const got = await b.get(KVM.GET_VCPU_EVENTS, 64)
      return [
        await b.vcpu(KVM.SET_VCPU_EVENTS, got),
        Buffer.from(await b.get(KVM.GET_VCPU_EVENTS, 64)).equals(got),
      ]
    },
    [0, true],
  )
  // struct kvm_vcpu_events: flags at 20
  check(
    'unknown flags of events are refused',
    events,
    async (b) =>
      b.vcpu(KVM.SET_VCPU_EVENTS, changed(await b.get(KVM.GET_VCPU_EVENTS, 64), 20, ['u32', 0x8000_0000])),
    'EINVAL',
  )

  const debug = documented('KVM_SET_DEBUGREGS')
  check(
    'debug registers come back as they were set',
    debug,
    async (b) => {
      const set = changed(await b.get(KVM.GET_DEBUGREGS, 128), 0, ['u64', 0x1234_5000])
      return [
        await b.vcpu(KVM.SET_DEBUGREGS, set),
        Buffer.from(await b.get(KVM.GET_DEBUGREGS, 128)).equals(set),
      ]
    },
    [0, true],
  )
  check(
    'flags of debug registers are refused',
    deFacto(debug.section),
    async (b) => b.vcpu(KVM.SET_DEBUGREGS, changed(await b.get(KVM.GET_DEBUGREGS, 128), 48, ['u64', 1])),
    'EINVAL',
  )
  check(
    'the upper half of DR7 is refused',
    deFacto(debug.section),
    async (b) =>
      b.vcpu(KVM.SET_DEBUGREGS, changed(await b.get(KVM.GET_DEBUGREGS, 128), 40, ['u64', 1n << 32n])),
    'EINVAL',
  )

  check(
    'a CPUID table of more than 256 entries is E2BIG',
    deFacto('KVM_SET_CPUID2'),
    (b) => b.vcpu(KVM.SET_CPUID2, pack(['u32', 257], ['pad', 4 + 257 * 40])),
    'E2BIG',
  )
  check(
    'a CPUID table outside memory is EFAULT',
    deFacto('KVM_SET_CPUID2'),
    (b) => b.vcpu(KVM.SET_CPUID2, pack(['u32', 2], ['pad', 44])),
    'EFAULT',
  )
})

describe('order of making', () => {
  check(
    'the identity map comes before the first vCPU',
    documented('KVM_SET_IDENTITY_MAP_ADDR'),
    async (b) => {
      const address = pack(['u64', 0xfffb_c000])
      const before = await b.vm(KVM.SET_IDENTITY_MAP_ADDR, address)
      await b.vm(KVM.CREATE_VCPU, 0)
      return [before, await b.vm(KVM.SET_IDENTITY_MAP_ADDR, address)]
    },
    [0, 'EINVAL'],
  )
  check(
    'the boot CPU is chosen before the first vCPU',
    documented('KVM_SET_BOOT_CPU_ID'),
    async (b) => {
      const before = await b.vm(KVM.SET_BOOT_CPU_ID, 1)
      await b.vm(KVM.CREATE_VCPU, 0)
      return [before, await b.vm(KVM.SET_BOOT_CPU_ID, 0)]
    },
    [0, 'EBUSY'],
  )
})

describe('devices and statistics', () => {
  const device = documented('KVM_CREATE_DEVICE')
  const vfio = 4
  check(
    'a device is an fd',
    device,
    async (b) => {
      const answer = await b.kvm.ioctl(await b.vmFd(), KVM.CREATE_DEVICE, pack(['u32', vfio], ['pad', 8]))
      return [answer.errno ?? answer.value, answer.fd !== undefined]
    },
    [0, true],
  )
  check(
    'a test whether a device could be made makes none',
    device,
    async (b) => {
      const answer = await b.kvm.ioctl(
        await b.vmFd(),
        KVM.CREATE_DEVICE,
        pack(['u32', vfio], ['u32', 0], ['u32', 1]),
      )
      return [answer.errno ?? answer.value, answer.fd !== undefined]
    },
    [0, false],
  )
  check(
    'an unknown device is refused',
    device,
    (b) => b.vm(KVM.CREATE_DEVICE, pack(['u32', 0xffff], ['pad', 8])),
    'ENODEV',
  )

  const stats = documented('KVM_GET_STATS_FD')
  // struct kvm_stats_header: flags, name_size, num_desc, id_offset, desc_offset, data_offset
  check(
    'statistics of a VM begin with a header',
    stats,
    async (b) => {
      const { fd } = await b.kvm.ioctl(await b.vmFd(), KVM.GET_STATS_FD)
      const { data } = await b.kvm.readFd(fd!, 24, { offset: 0 })
      return [u32(data!, 4), u32(data!, 8) > 0, u32(data!, 12)]
    },
    [48, true, 24],
  )
  check(
    'statistics of a vCPU count its exits',
    stats,
    async (b) => {
      const { fd: vcpu } = await b.guest('io_out')
      const { fd } = await b.kvm.ioctl(vcpu, KVM.GET_STATS_FD)
      const header = (await b.kvm.readFd(fd!, 24, { offset: 0 })).data!
      const [nameSize, descriptors, descOffset, dataOffset] = [4, 8, 16, 20].map((at) => u32(header, at)) as [
        number,
        number,
        number,
        number,
      ]
      // struct kvm_stats_desc: flags, exponent and size (16 bits each), offset, bucket_size, name
      const table = (await b.kvm.readFd(fd!, descriptors * (16 + nameSize), { offset: descOffset })).data!
      const at = Array.from({ length: descriptors }, (_, i) => i * (16 + nameSize)).find(
        (start) => Buffer.from(table.subarray(start + 16, start + 16 + 9)).toString() === 'io_exits\0',
      )!
      const offset = dataOffset + u32(table, at + 8)
      const read = async () => u32((await b.kvm.readFd(fd!, 8, { offset })).data!, 0)
      const before = await read()
      await b.exits(2)
      return (await read()) - before
    },
    2,
    [
      {
        where: { accelerator: 'software' },
        outcome: 0,
        why: 'its guests leave real mode through an emulator',
      },
    ],
  )
  check(
    'statistics are not written',
    deFacto(stats.section),
    async (b) => {
      const { fd } = await b.kvm.ioctl(await b.vmFd(), KVM.GET_STATS_FD)
      return (await b.kvm.writeFd(fd!, new Uint8Array(8))).errno
    },
    'EBADF',
  )
})
