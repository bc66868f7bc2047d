import { CAP, constant, fieldOf, KVM, sizeOf, structOf, withFields } from 'kvitest'
import { describe, expect } from 'vitest'
import { exceptionsWhereAbsent } from './absences.ts'
import { type Bench, exitOf, outcomeOf } from './bench.ts'
import { check } from './check.ts'
import { deFacto, documented } from './claim.ts'
import { pack, u32 } from './struct.ts'

const software = (outcome: unknown, why: string) => ({
  where: { accelerator: 'software' as const },
  outcome,
  why,
})

const events = async (b: Bench) => b.get(KVM.GET_VCPU_EVENTS, sizeOf('kvm_vcpu_events'))

describe('events from user space', () => {
  check(
    'an NMI waits for the guest',
    documented('KVM_NMI'),
    async (b) => {
      const sent = await b.vcpu(KVM.NMI)
      return [sent, fieldOf(await events(b), 'kvm_vcpu_events', 'nmi.pending')]
    },
    [0, 1n],
  )
  check(
    'an SMI waits for the guest',
    documented('KVM_SMI'),
    async (b) => {
      const sent = await b.vcpu(KVM.SMI)
      return [sent, fieldOf(await events(b), 'kvm_vcpu_events', 'smi.pending')]
    },
    [0, 1n],
    exceptionsWhereAbsent('KVM_SMI', ['ENOTTY', 0n]),
  )
  check(
    'a payload of an exception is refused until its capability is enabled',
    documented('KVM_CAP_EXCEPTION_PAYLOAD'),
    async (b) => {
      const flags = constant('KVM_VCPUEVENT_VALID_PAYLOAD')
      const set = async () => {
        const pending = withFields(await events(b), 'kvm_vcpu_events', { flags })
        return b.vcpu(KVM.SET_VCPU_EVENTS, pending)
      }
      const before = await set()
      await b.vm(KVM.ENABLE_CAP, structOf('kvm_enable_cap', { cap: CAP.EXCEPTION_PAYLOAD, args: [1] }))
      return [before, await set()]
    },
    ['EINVAL', 0],
  )
  check(
    'an exception that is injected and pending is refused',
    deFacto('KVM_SET_VCPU_EVENTS'),
    async (b) => {
      const both = withFields(await events(b), 'kvm_vcpu_events', {
        'exception.injected': 1,
        'exception.nr': 2,
        flags: 0,
      })
      return b.vcpu(KVM.SET_VCPU_EVENTS, both)
    },
    'EINVAL',
  )
})

describe('machine checks', () => {
  const supported = async (b: Bench) => {
    const { data } = await b.kvm.ioctl(b.system, KVM.X86_GET_MCE_CAP_SUPPORTED, new Uint8Array(8))
    return data!
  }
  check(
    'what machine checks KVM can do is told',
    documented('KVM_X86_GET_MCE_CAP_SUPPORTED'),
    async (b) => u32(await supported(b), 0) !== 0,
    true,
    [software(true, 'as elsewhere')],
  )
  check(
    'a vCPU gets the banks that it asks for',
    documented('KVM_X86_SETUP_MCE'),
    async (b) => {
      const capabilities = await supported(b)
      capabilities[0] = 10
      return b.vcpu(KVM.X86_SETUP_MCE, capabilities)
    },
    0,
  )
  for (const banks of [0, 33, 255]) {
    check(
      `${banks} banks are refused`,
      documented('KVM_X86_SETUP_MCE'),
      (b) => b.vcpu(KVM.X86_SETUP_MCE, pack(['u64', banks])),
      'EINVAL',
    )
  }
  check(
    'capabilities of machine checks that KVM does not have are refused',
    documented('KVM_X86_SETUP_MCE'),
    (b) => b.vcpu(KVM.X86_SETUP_MCE, pack(['u64', (1n << 40n) | 10n])),
    'EINVAL',
  )
  check(
    'a machine check in a bank that is not there is refused',
    documented('KVM_X86_SET_MCE'),
    (b) => b.vcpu(KVM.X86_SET_MCE, structOf('kvm_x86_mce', { status: 1n << 63n, bank: 200 })),
    'EINVAL',
  )
  check(
    'a machine check without its valid bit is refused',
    documented('KVM_X86_SET_MCE'),
    (b) => b.vcpu(KVM.X86_SET_MCE, structOf('kvm_x86_mce')),
    'EINVAL',
  )
})

/** Upstream in 7.3, for stable; lines that ended before have it not. Long mode without CPUID is a bit of EFER too. */
const beforeEfer = [{ before: '6.12.113' }, { from: '6.13', before: '6.18' }].map((where) => ({
  where,
  outcome: 0,
  why: 'no look at EFER before 184bd464bdb6, which 6.12 has since 6.12.113 and 6.1 has not',
}))

describe('memory as a vCPU sees it', () => {
  check(
    'in real mode a linear address is the physical one',
    documented('KVM_TRANSLATE'),
    async (b) => {
      await b.guest('halt')
      const { data } = await b.kvm.ioctl(
        (await b.vcpuOf()).fd,
        KVM.TRANSLATE,
        structOf('kvm_translation', { linear_address: 0x1234 }),
      )
      return [
        fieldOf(data!, 'kvm_translation', 'physical_address'),
        fieldOf(data!, 'kvm_translation', 'valid'),
      ]
    },
    [0x1234n, 1n],
  )
  check(
    'with paging an address that no table maps is not valid',
    documented('KVM_TRANSLATE'),
    async (b) => {
      await b.guest('halt')
      await b.setCpuid(await b.supportedCpuid())
      const paged = await b.longMode()
      const translate = async (linear_address: number) => {
        const { data } = await b.kvm.ioctl(
          (await b.vcpuOf()).fd,
          KVM.TRANSLATE,
          structOf('kvm_translation', { linear_address }),
        )
        return fieldOf(data!, 'kvm_translation', 'valid')
      }
      return [paged, await translate(0x1000), await translate(0x4000_0000)]
    },
    [0, 1n, 0n],
  )
  check(
    'long mode is taken from a vCPU without CPUID',
    deFacto('KVM_SET_SREGS'),
    async (b) => {
      await b.guest('halt')
      return b.longMode()
    },
    'EINVAL',
    [software(0, 'as Linux 6.1 does'), ...beforeEfer],
  )
  check(
    'bits of EFER that no CPU has are refused',
    deFacto('KVM_SET_SREGS'),
    (b) => b.setSregs({ fields: { efer: 1n << 63n } }),
    'EINVAL',
    [software(0, 'as Linux 6.1 does'), ...beforeEfer],
  )
})

describe('the signal mask of KVM_RUN', () => {
  const mask = documented('KVM_SET_SIGNAL_MASK')
  const blocked = (length: number, ...bytes: number[]) =>
    pack(['u32', length], ['bytes', new Uint8Array(bytes)])
  check(
    'a mask of 8 bytes is taken',
    mask,
    (b) => b.vcpu(KVM.SET_SIGNAL_MASK, blocked(8, 0, 0, 0, 0, 0, 0, 0, 0)),
    0,
  )
  check('no mask is taken', mask, (b) => b.vcpu(KVM.SET_SIGNAL_MASK, 0), 0)
  for (const length of [0, 4, 16]) {
    check(
      `a mask of ${length} bytes is refused`,
      deFacto(mask.section),
      (b) => b.vcpu(KVM.SET_SIGNAL_MASK, blocked(length, ...new Array(16).fill(0))),
      'EINVAL',
    )
  }
  check(
    'a mask that ends outside memory is EFAULT',
    deFacto(mask.section),
    (b) => b.vcpu(KVM.SET_SIGNAL_MASK, blocked(8, 0, 0, 0, 0)),
    'EFAULT',
  )
  check(
    'a guest runs to its exit while all signals are blocked',
    mask,
    async (b) => {
      await b.guest('io_out')
      await b.vcpu(KVM.SET_SIGNAL_MASK, blocked(8, ...new Array(8).fill(0xff)))
      return exitOf(await b.run())
    },
    'io',
  )
  check(
    'a signal that the mask lets through ends KVM_RUN with EINTR',
    mask,
    async (b) => {
      const vcpu = await b.guest('spin')
      await b.vcpu(KVM.SET_SIGNAL_MASK, blocked(8, ...new Array(8).fill(0)))
      const running = b.run({ deadline: 20_000 })
      await b.kvm.signal(vcpu)
      return outcomeOf(await running)
    },
    'EINTR',
  )
})

describe("the clock of a guest's own", () => {
  check(
    'a guest that has no clock of KVM is not told of a pause',
    documented('KVM_KVMCLOCK_CTRL'),
    (b) => b.vcpu(KVM.KVMCLOCK_CTRL),
    'EINVAL',
  )
  check(
    'a guest that has one is',
    documented('KVM_KVMCLOCK_CTRL'),
    async (b) => {
      await b.guest('halt')
      // MSR_KVM_SYSTEM_TIME_NEW: where in its memory, and bit 0: on.
      const set = await b.vcpu(
        KVM.SET_MSRS,
        pack(['u32', 1], ['u32', 0], ['u32', 0x4b56_4d01], ['u32', 0], ['u64', 0x2001]),
      )
      return [set, await b.vcpu(KVM.KVMCLOCK_CTRL)]
    },
    [1, 0],
  )
})

describe('registers by number', () => {
  const absent = (outcome: unknown) => exceptionsWhereAbsent('KVM_GET_ONE_REG', outcome)
  check(
    'a list of registers that is too short is E2BIG and told its size; without shadow stacks there is none to list',
    documented('KVM_GET_REG_LIST'),
    async (b) => {
      const entries = await b.supportedCpuid()
      // CPUID.7.0:ECX.SHSTK
      const isStackLeaf = (leaf: Uint8Array) => u32(leaf, 0) === 7 && u32(leaf, 4) === 0
      const shadowStacks = entries.some((leaf) => isStackLeaf(leaf) && (u32(leaf, 20) & 0x80) !== 0)
      await b.setCpuid(entries)
      const { errno, data } = await b.kvm.ioctl((await b.vcpuOf()).fd, KVM.GET_REG_LIST, new Uint8Array(8))
      return [shadowStacks, errno ?? 0, u32(data!, 0) > 0]
    },
    expect.toBeOneOf([
      [true, 'E2BIG', true],
      [false, 0, false],
    ]),
    absent([expect.any(Boolean), 'EINVAL', false]),
  )
  check(
    'a register of no kind is refused',
    documented('KVM_GET_ONE_REG'),
    async (b) => [
      await b.vcpu(KVM.GET_ONE_REG, structOf('kvm_one_reg')),
      await b.vcpu(KVM.SET_ONE_REG, structOf('kvm_one_reg')),
    ],
    ['EINVAL', 'EINVAL'],
  )
})

describe('nested state', () => {
  const absent = (outcome: unknown) => exceptionsWhereAbsent('KVM_GET_NESTED_STATE', outcome)
  const state = (size: number) => structOf('kvm_nested_state', { size })
  check(
    'state that does not fit is E2BIG and told its size',
    documented('KVM_GET_NESTED_STATE'),
    async (b) => {
      const { errno, data } = await b.kvm.ioctl((await b.vcpuOf()).fd, KVM.GET_NESTED_STATE, state(0))
      return [errno, fieldOf(data!, 'kvm_nested_state', 'size') >= 128n]
    },
    ['E2BIG', true],
    absent(['EINVAL', false]),
  )
  check(
    'the state of a vCPU that runs no guest can be written back',
    documented('KVM_SET_NESTED_STATE'),
    async (b) => {
      const { errno, data } = await b.kvm.ioctl((await b.vcpuOf()).fd, KVM.GET_NESTED_STATE, state(128))
      return [errno, await b.vcpu(KVM.SET_NESTED_STATE, data!)]
    },
    [undefined, 0],
    absent(['EINVAL', 'EINVAL']),
  )
  check(
    'state of the other vendor is refused',
    deFacto('KVM_SET_NESTED_STATE'),
    async (b) => {
      const { data } = await b.kvm.ioctl((await b.vcpuOf()).fd, KVM.GET_NESTED_STATE, state(128))
      const format = fieldOf(data!, 'kvm_nested_state', 'format') === 0n ? 1 : 0
      return b.vcpu(KVM.SET_NESTED_STATE, withFields(data!, 'kvm_nested_state', { format }))
    },
    'EINVAL',
  )
  check(
    'state that is smaller than its header is refused',
    deFacto('KVM_SET_NESTED_STATE'),
    (b) => b.vcpu(KVM.SET_NESTED_STATE, state(64)),
    'EINVAL',
  )
})
