import { CAP, constant, ioctlCall, KVM, type RawFd, sizeOf, structOf } from 'kvitest'
import { describe } from 'vitest'
import { type Bench, exitOf, outcomeOf } from './bench.ts'
import { check } from './check.ts'
import { deFacto, documented } from './claim.ts'
import { startCounting } from './counting.ts'
import { pack, u32 } from './struct.ts'

const lifetimes = documented('File descriptors')

const group = structOf('kvm_device_attr', {
  group: constant('KVM_DEV_VFIO_GROUP'),
  attr: constant('KVM_DEV_VFIO_GROUP_ADD'),
})

async function vfioDevice(b: Bench) {
  const create = structOf('kvm_create_device', { type: constant('KVM_DEV_TYPE_VFIO') })
  return b.kvm.ioctl(await b.vmFd(), KVM.CREATE_DEVICE, create)
}

/** VM and vCPU fds, and the mapping of kvm_run, all given back. */
async function closeVm(b: Bench): Promise<void> {
  const { fd, area } = await b.vcpuOf()
  await area.release()
  await b.kvm.close(fd)
  await b.kvm.close(await b.vmFd())
}

/** num_desc of a statistics fd, and whether its data are all there to read. */
async function statistics(b: Bench, fd: RawFd): Promise<[boolean, boolean]> {
  const header = await b.kvm.readFd(fd, 24, { offset: 0 })
  if (!header.data) return [false, false]
  const [count, dataAt] = [u32(header.data, 8), u32(header.data, 20)]
  const values = await b.kvm.readFd(fd, 8, { offset: dataAt })
  return [count > 0, values.data?.length === 8]
}

describe('fds that are closed', () => {
  check(
    'a VM lives without the fd of /dev/kvm that made it',
    lifetimes,
    async (b) => {
      await b.guest('io_out')
      await b.kvm.close(b.system)
      return b.exits(2)
    },
    ['io', 'io'],
  )
  check(
    'the id of a vCPU stays taken when its fd is closed',
    deFacto('KVM_CREATE_VCPU'),
    async (b) => {
      const { fd, area } = await b.addVcpu(5)
      await area.release()
      await b.kvm.close(fd)
      return [await b.vm(KVM.CREATE_VCPU, 5), await b.vm(KVM.CREATE_VCPU, 6)]
    },
    ['EEXIST', 0],
  )
  check(
    'kvm_run is there as long as it is mapped',
    deFacto(lifetimes.section),
    async (b) => {
      const vcpu = await b.guest('io_out')
      await b.run()
      await b.kvm.close(vcpu.fd)
      await b.kvm.close(await b.vmFd())
      // exit_reason, as the last run left it: KVM_EXIT_IO.
      return u32(await vcpu.area.read(8, 4), 0)
    },
    2,
  )
  check(
    'KVM_RUN goes on when the fd of its vCPU is closed',
    deFacto('KVM_RUN'),
    async (b) => {
      const { vcpu, ended, goesOn } = await startCounting(b)
      await b.kvm.close(vcpu.fd)
      const after = await goesOn()
      await b.kvm.signal(vcpu)
      return [after, outcomeOf(await ended)]
    },
    [true, 'EINTR'],
  )
  check(
    'KVM_RUN goes on when the fd of its VM is closed',
    deFacto('KVM_RUN'),
    async (b) => {
      const { vcpu, ended, goesOn } = await startCounting(b)
      await b.kvm.close(await b.vmFd())
      const after = await goesOn()
      await b.kvm.signal(vcpu)
      return [after, outcomeOf(await ended)]
    },
    [true, 'EINTR'],
  )
  check(
    'memory that is gone is no memory of the guest any more',
    documented('KVM_RUN'),
    async (b) => {
      await b.guest('io_out')
      await (await b.memory()).release()
      return exitOf(await b.run())
    },
    'EFAULT',
    [
      {
        where: { accelerator: 'software' },
        outcome: 'internal-error',
        why: 'it fetches real-mode code through its emulator',
      },
    ],
  )
  check(
    'KVM_RUN that fails leaves no exit reason of the run before',
    deFacto('KVM_RUN'),
    async (b) => {
      await b.guest('io_out')
      const [first] = await b.exits(1)
      await (await b.memory()).release()
      const { errno, area } = await b.run()
      return [first, errno, area!.exit]
    },
    ['io', 'EFAULT', 'unknown'],
    [
      {
        where: { accelerator: 'software' },
        outcome: ['io', undefined, 'internal-error'],
        why: 'it fetches real-mode code through its emulator',
      },
      {
        where: { before: '6.8' },
        outcome: ['io', 'EFAULT', 'io'],
        why: 'exit_reason is set to KVM_EXIT_UNKNOWN first since ee605e315633',
      },
    ],
  )
  check(
    'one memory may be in two VMs',
    deFacto('KVM_SET_USER_MEMORY_REGION'),
    async (b) => {
      await b.guest('io_out')
      const other = (await b.kvm.ioctl(b.system, KVM.CREATE_VM)).fd!
      const region = pack(['u32', 0], ['u32', 0], ['u64', 0], ['u64', 0x4000], ['u64', 0])
      const patches = [{ at: 24, memory: await b.memory() }]
      const set = await b.kvm.ioctl(other, KVM.SET_USER_MEMORY_REGION, region, { patches })
      await b.kvm.close(other)
      return [outcomeOf(set), ...(await b.exits(1))]
    },
    [0, 'io'],
  )
  check(
    'an ioeventfd works on when the eventfd is closed',
    deFacto('KVM_IOEVENTFD'),
    async (b) => {
      await b.guest('io_out')
      const eventfd = await b.kvm.eventfd()
      const event = structOf('kvm_ioeventfd', {
        addr: 0x10,
        len: 1,
        flags: constant('KVM_IOEVENTFD_FLAG_PIO'),
      })
      const set = await b.vm(KVM.IOEVENTFD, event, { patches: [{ at: 20, fd: eventfd }] })
      await b.kvm.close(eventfd)
      // The first OUT is the event's, and does not exit.
      return [set, (await b.run()).area!.io.port]
    },
    [0, 0x20],
  )
  check(
    'an irqfd is gone with its eventfd',
    deFacto('KVM_IRQFD'),
    async (b) => {
      await b.vm(KVM.CREATE_IRQCHIP)
      const assign = async () => {
        const fd = await b.kvm.eventfd()
        const patches = [{ at: 0, fd }]
        return { fd, outcome: await b.vm(KVM.IRQFD, structOf('kvm_irqfd', { gsi: 4 }), { patches }) }
      }
      const first = await assign()
      await b.kvm.close(first.fd)
      return [first.outcome, (await assign()).outcome]
    },
    [0, 0],
  )
})

describe('fds that outlive the others of their VM', () => {
  check(
    'a device answers when VM and vCPU are closed',
    deFacto('KVM_HAS_DEVICE_ATTR'),
    async (b) => {
      const { fd } = await vfioDevice(b)
      await closeVm(b)
      return outcomeOf(await b.kvm.ioctl(fd!, KVM.HAS_DEVICE_ATTR, group))
    },
    0,
  )
  check(
    'a VM lives as long as a device of it',
    deFacto(lifetimes.section),
    async (b) => {
      const vcpu = await b.guest('io_out')
      const { fd } = await vfioDevice(b)
      await b.kvm.close(await b.vmFd())
      const attr = outcomeOf(await b.kvm.ioctl(fd!, KVM.HAS_DEVICE_ATTR, group))
      await b.kvm.close(fd!)
      return [attr, exitOf(await b.kvm.run(vcpu))]
    },
    [0, 'io'],
  )
  check(
    'another device of VFIO may be made when the fd of the first is closed',
    deFacto('KVM_CREATE_DEVICE'),
    async (b) => {
      const first = await vfioDevice(b)
      const beside = outcomeOf(await vfioDevice(b))
      await b.kvm.close(first.fd!)
      return [beside, outcomeOf(await vfioDevice(b))]
    },
    ['EBUSY', 0],
  )
  check(
    'statistics of a VM are read when VM and vCPU are closed',
    deFacto('KVM_GET_STATS_FD'),
    async (b) => {
      const { fd } = await b.kvm.ioctl(await b.vmFd(), KVM.GET_STATS_FD)
      await closeVm(b)
      return statistics(b, fd!)
    },
    [true, true],
  )
  check(
    'statistics of a vCPU are read when VM and vCPU are closed',
    deFacto('KVM_GET_STATS_FD'),
    async (b) => {
      const { fd } = await b.kvm.ioctl((await b.vcpuOf()).fd, KVM.GET_STATS_FD)
      await closeVm(b)
      return statistics(b, fd!)
    },
    [true, true],
  )
})

describe('a child of the process', () => {
  const inChild = { inChild: true, deadline: 30_000 }
  check(
    'a vCPU is run by the process that made it only',
    lifetimes,
    (b) => b.vcpu(KVM.RUN, 0, inChild),
    'EIO',
  )
  check(
    'a device is used by the process that made its VM only',
    deFacto(lifetimes.section),
    async (b) => {
      const { fd } = await vfioDevice(b)
      const of = async (options?: typeof inChild) =>
        outcomeOf(await b.kvm.ioctl(fd!, KVM.HAS_DEVICE_ATTR, group, options))
      return [await of(inChild), await of()]
    },
    ['EIO', 0],
  )
  check('a child makes a VM of its own', lifetimes, (b) => b.sys(KVM.CREATE_VM, 0, inChild), 0)
  check(
    'a child that ends leaves the VM as it was',
    lifetimes,
    async (b) => {
      await b.guest('io_out')
      const [first] = await b.exits(1)
      await b.vm(KVM.CHECK_EXTENSION, CAP.USER_MEMORY, inChild)
      return [first, ...(await b.exits(1))]
    },
    ['io', 'io'],
  )
  check(
    'a child that begins and ends while the vCPU runs leaves it running',
    deFacto(lifetimes.section),
    async (b) => {
      const { vcpu, ended, goesOn } = await startCounting(b)
      const child = await b.vcpu(KVM.GET_REGS, new Uint8Array(144), inChild)
      const after = await goesOn()
      await b.kvm.signal(vcpu)
      return [child, after, outcomeOf(await ended)]
    },
    ['EIO', true, 'EINTR'],
  )
})

describe('a program that the process executes', () => {
  const deadline = 30_000
  const executing = (exec: 'leave' | 'inherit', first?: number) => ({
    inChild: { exec, ...(first === undefined ? {} : { first }) },
    deadline,
  })
  const onEach = async (b: Bench, exec: 'leave' | 'inherit') => {
    const { vm, vcpu, dev, stats } = await b.fds()
    const results = await b.kvm.batch([
      ioctlCall(vm, KVM.CHECK_EXTENSION, CAP.USER_MEMORY, executing(exec)),
      ioctlCall(vcpu, KVM.GET_REGS, new Uint8Array(sizeOf('kvm_regs')), executing(exec)),
      ioctlCall(dev, KVM.HAS_DEVICE_ATTR, group, executing(exec)),
      ioctlCall(stats, KVM.CHECK_EXTENSION, CAP.USER_MEMORY, executing(exec)),
    ])
    return results.map(outcomeOf)
  }
  check(
    'VM, vCPU, device and statistics are closed in it',
    deFacto(lifetimes.section),
    (b) => onEach(b, 'leave'),
    ['EBADF', 'EBADF', 'EBADF', 'EBADF'],
  )
  check(
    'VM, vCPU and device that it is left with are not its own; statistics have no ioctls',
    lifetimes,
    (b) => onEach(b, 'inherit'),
    ['EIO', 'EIO', 'EIO', 'ENOTTY'],
  )
  check(
    'a vCPU that it is left with does not run',
    lifetimes,
    (b) => b.vcpu(KVM.RUN, 0, executing('inherit')),
    'EIO',
  )
  check(
    'a VM is not of the program that its maker became',
    lifetimes,
    (b) => b.sys(KVM.CHECK_EXTENSION, CAP.USER_MEMORY, executing('inherit', KVM.CREATE_VM)),
    'EIO',
  )
  check(
    '/dev/kvm that it is left with makes VMs of its own',
    deFacto(lifetimes.section),
    (b) => b.sys(KVM.CREATE_VM, 0, executing('inherit')),
    0,
  )
  check(
    'that ends while the vCPU runs leaves it running',
    deFacto(lifetimes.section),
    async (b) => {
      const { vcpu, ended, goesOn } = await startCounting(b)
      const child = await b.vcpu(KVM.GET_MP_STATE, new Uint8Array(4), executing('inherit'))
      const isRunning = await goesOn()
      await b.kvm.signal(vcpu)
      return [child, isRunning, outcomeOf(await ended)]
    },
    ['EIO', true, 'EINTR'],
  )
})

describe('a process without room for another fd', () => {
  const none = (first?: number) => ({
    inChild: { files: 0, ...(first === undefined ? {} : { first }) },
    deadline: 30_000,
  })
  check('gets no VM', deFacto('KVM_CREATE_VM'), (b) => b.sys(KVM.CREATE_VM, 0, none()), 'EMFILE')
  check(
    'gets no statistics',
    documented('KVM_GET_STATS_FD'),
    (b) => b.sys(KVM.GET_STATS_FD, 0, none(KVM.CREATE_VM)),
    'EMFILE',
  )
  check(
    'gets no vCPU',
    deFacto('KVM_CREATE_VCPU'),
    (b) => b.sys(KVM.CREATE_VCPU, 0, none(KVM.CREATE_VM)),
    'EMFILE',
  )
})
