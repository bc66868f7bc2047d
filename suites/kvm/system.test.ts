import { CAP, KVM } from 'kvitest'
import { describe } from 'vitest'
import { check } from './check.ts'
import { deFacto, documented } from './claim.ts'
import { pack, u32 } from './struct.ts'

/** A request of KVM's type that no kernel knows. */
const unknownRequest = 0xaeff

describe('system ioctls', () => {
  const apiVersion = documented('KVM_GET_API_VERSION')
  check('the API version is 12', apiVersion, (b) => b.sys(KVM.GET_API_VERSION), 12)
  check(
    'KVM_GET_API_VERSION takes no argument',
    deFacto(apiVersion.section),
    (b) => b.sys(KVM.GET_API_VERSION, 1),
    'EINVAL',
  )

  const extension = documented('KVM_CHECK_EXTENSION')
  check('user memory is there', extension, (b) => b.sys(KVM.CHECK_EXTENSION, CAP.USER_MEMORY), 1)
  check('immediate_exit is there', extension, (b) => b.sys(KVM.CHECK_EXTENSION, CAP.IMMEDIATE_EXIT), 1)
  check('an unknown extension is 0', extension, (b) => b.sys(KVM.CHECK_EXTENSION, 0x7fff_ffff), 0)
  check('a VM answers for extensions too', extension, (b) => b.vm(KVM.CHECK_EXTENSION, CAP.USER_MEMORY), 1)
  check(
    'there may be at least as many vCPUs as are recommended',
    extension,
    async (b) => {
      const [recommended, most] = [
        await b.sys(KVM.CHECK_EXTENSION, CAP.NR_VCPUS),
        await b.sys(KVM.CHECK_EXTENSION, CAP.MAX_VCPUS),
      ]
      return Number(recommended) >= 1 && Number(most) >= Number(recommended)
    },
    true,
  )

  const area = documented('KVM_GET_VCPU_MMAP_SIZE')
  check('kvm_run takes whole pages', area, async (b) => Number(await b.sys(KVM.GET_VCPU_MMAP_SIZE)) % 4096, 0)
  check(
    'KVM_GET_VCPU_MMAP_SIZE takes no argument',
    deFacto(area.section),
    (b) => b.sys(KVM.GET_VCPU_MMAP_SIZE, 1),
    'EINVAL',
  )

  const unknown = deFacto('File descriptors')
  check('/dev/kvm refuses a request it does not know', unknown, (b) => b.sys(unknownRequest), 'EINVAL')
  check('a VM refuses a request it does not know', unknown, (b) => b.vm(unknownRequest), 'ENOTTY')
  check('a vCPU refuses a request it does not know', unknown, (b) => b.vcpu(unknownRequest), 'EINVAL')
  check('a request of another type is none of a vCPU', unknown, (b) => b.vcpu(0x5401), 'EINVAL')
  check('a vCPU request is none of a VM', unknown, (b) => b.vm(KVM.GET_REGS, new Uint8Array(144)), 'ENOTTY')

  const list = documented('KVM_GET_MSR_INDEX_LIST')
  check(
    'a list that is too short is E2BIG and told its size',
    list,
    async (b) => {
      const answer = await b.kvm.ioctl(b.system, KVM.GET_MSR_INDEX_LIST, pack(['u32', 0]))
      return [answer.errno, u32(answer.data!, 0) > 0]
    },
    ['E2BIG', true],
  )
  check(
    'a list of the size that was told is filled',
    list,
    async (b) => {
      const short = await b.kvm.ioctl(b.system, KVM.GET_MSR_INDEX_LIST, pack(['u32', 0]))
      const count = u32(short.data!, 0)
      const full = await b.kvm.ioctl(
        b.system,
        KVM.GET_MSR_INDEX_LIST,
        pack(['u32', count], ['pad', 4 * count]),
      )
      return [full.errno, u32(full.data!, 0) === count]
    },
    [undefined, true],
  )
  check('a list outside memory is EFAULT', list, (b) => b.sys(KVM.GET_MSR_INDEX_LIST, 0), 'EFAULT')

  const cpuid = documented('KVM_GET_SUPPORTED_CPUID')
  check(
    'a CPUID table that is too small is E2BIG',
    cpuid,
    (b) => b.sys(KVM.GET_SUPPORTED_CPUID, pack(['u32', 1], ['pad', 44])),
    'E2BIG',
  )
  check(
    'a CPUID table of 256 entries is enough',
    cpuid,
    (b) => b.sys(KVM.GET_SUPPORTED_CPUID, pack(['u32', 256], ['pad', 4 + 256 * 40])),
    0,
  )
})

describe('VMs and vCPUs', () => {
  const vm = documented('KVM_CREATE_VM')
  check('a VM is made', vm, (b) => b.sys(KVM.CREATE_VM), 0)
  check(
    'a VM of an unknown type is refused',
    deFacto(vm.section),
    (b) => b.sys(KVM.CREATE_VM, 0x1234_5678),
    'EINVAL',
  )

  const vcpu = documented('KVM_CREATE_VCPU')
  check('a vCPU is made', vcpu, (b) => b.vm(KVM.CREATE_VCPU, 0), 0)
  check('a vCPU id may leave a gap', vcpu, (b) => b.vm(KVM.CREATE_VCPU, 3), 0)
  check(
    'a vCPU id is given once',
    vcpu,
    async (b) => [await b.vm(KVM.CREATE_VCPU, 0), await b.vm(KVM.CREATE_VCPU, 0)],
    [0, 'EEXIST'],
  )
  check(
    'a vCPU id is below KVM_CAP_MAX_VCPU_ID',
    vcpu,
    async (b) => b.vm(KVM.CREATE_VCPU, Number(await b.vm(KVM.CHECK_EXTENSION, CAP.MAX_VCPU_ID))),
    'EINVAL',
  )
  check('a vCPU is no request of /dev/kvm', vcpu, (b) => b.sys(KVM.CREATE_VCPU), 'EINVAL')
  check(
    'kvm_run is mapped',
    documented('The kvm_run structure'),
    async (b) => (await b.vcpuOf()).area.bytes >= 4096,
    true,
  )

  const process = documented('File descriptors')
  check(
    'a VM is used by the process that made it only',
    process,
    (b) => b.vm(KVM.CHECK_EXTENSION, CAP.USER_MEMORY, { inChild: true, deadline: 30_000 }),
    'EIO',
  )
  check(
    'a vCPU is used by the process that made it only',
    process,
    (b) => b.vcpu(KVM.GET_REGS, new Uint8Array(144), { inChild: true, deadline: 30_000 }),
    'EIO',
  )
  check(
    '/dev/kvm is used by every process',
    process,
    (b) => b.sys(KVM.GET_API_VERSION, 0, { inChild: true, deadline: 30_000 }),
    12,
  )
  check(
    'a VM lives as long as a vCPU of it',
    process,
    async (b) => {
      await b.guest('io_out')
      await b.kvm.close(await b.vmFd())
      return b.exits(1)
    },
    ['io'],
  )
  check(
    'vCPUs of one id made by several threads at once: one is made',
    vcpu,
    async (b) => {
      const fd = (await b.vmFd()).handle
      const results = await b.kvm.batch([
        [0, 1, 2, 3].map(
          (i) => ({ do: 'ioctl', fd, request: KVM.CREATE_VCPU, as: 1000 + i, thread: `maker ${i}` }) as const,
        ),
      ])
      return results.map((result) => result.errno ?? 'made').sort()
    },
    ['EEXIST', 'EEXIST', 'EEXIST', 'made'],
  )
})
