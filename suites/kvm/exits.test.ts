import { CAP, constant, fieldOf, KVM, offsetOf, sizeOf, structOf } from 'kvitest'
import { describe, expect } from 'vitest'
import { type Bench, exitOf } from './bench.ts'
import { check } from './check.ts'
import { deFacto, documented, type Exception } from './claim.ts'
import { pack } from './struct.ts'

const area = documented('The kvm_run structure')
const software = (outcome: unknown, why: string): Exception => ({
  where: { accelerator: 'software' },
  outcome,
  why,
})

const enable = (b: Bench, cap: number, args: (number | bigint)[] = []) =>
  b.vm(KVM.ENABLE_CAP, structOf('kvm_enable_cap', { cap, args }))
const enableOnVcpu = (b: Bench, cap: number) => b.vcpu(KVM.ENABLE_CAP, structOf('kvm_enable_cap', { cap }))

/** Within the union of kvm_run. */
const debugPc = offsetOf('kvm_run', 'debug.arch') + offsetOf('kvm_debug_exit_arch', 'pc') - 32

/** MSRs and leaves of Hyper-V's interface (its TLFS). */
const hyperv = { reset: 0x4000_0003, scontrol: 0x4000_0080, crashControl: 0x4000_0105 }

/** The vCPU's CPUID says Hyper-V, besides all that KVM can. */
async function sayHyperv(b: Bench): Promise<void> {
  const leaf = (id: number, eax: number, edx = 0) =>
    structOf('kvm_cpuid_entry2', { function: id, eax, ebx: 0xffff_ffff, edx })
  const kept = (await b.supportedCpuid()).filter(
    (entry) => fieldOf(entry, 'kvm_cpuid_entry2', 'function') >> 8n !== 0x40_0000n,
  )
  // "Hv#1"; the features: everything.
  await b.setCpuid([
    ...kept,
    leaf(0x4000_0000, 0x4000_0006),
    leaf(0x4000_0001, 0x3123_7648),
    leaf(0x4000_0003, 0xffff_ffff, 0xffff_ffff),
  ])
}

const noHyperv = (outcome: unknown): Exception => ({
  where: { from: '6.8', without: 'CONFIG_KVM_HYPERV' },
  outcome,
  why: 'built without CONFIG_KVM_HYPERV',
})

describe('exits that are asked for', () => {
  check(
    'a guest that can take an interrupt exits when the host waits for that',
    area,
    async (b) => {
      const vcpu = await b.guest('spin', { regs: { rflags: 0x202 } })
      await vcpu.area.write(offsetOf('kvm_run', 'request_interrupt_window'), pack(['u8', 1]))
      return exitOf(await b.run())
    },
    'irq-window-open',
  )
  check(
    'a single step exits at each instruction',
    documented('KVM_SET_GUEST_DEBUG'),
    async (b) => {
      await b.guest('io_out')
      const control = constant('KVM_GUESTDBG_ENABLE') | constant('KVM_GUESTDBG_SINGLESTEP')
      await b.vcpu(KVM.SET_GUEST_DEBUG, structOf('kvm_guest_debug', { control }))
      const { area: run } = await b.run()
      return [run!.exit, run!.u64(debugPc)]
    },
    ['debug', 0x1002n],
  )
  check(
    'a hardware breakpoint exits before its instruction',
    documented('KVM_SET_GUEST_DEBUG'),
    async (b) => {
      await b.guest('io_out')
      const control = constant('KVM_GUESTDBG_ENABLE') | constant('KVM_GUESTDBG_USE_HW_BP')
      // debugreg[0] the address, debugreg[7] its enable bit.
      const registers = [0x1002, 0, 0, 0, 0, 0, 0, 0x402]
      await b.vcpu(
        KVM.SET_GUEST_DEBUG,
        structOf('kvm_guest_debug', {
          control,
          arch: structOf('kvm_guest_debug_arch', { debugreg: registers }),
        }),
      )
      const { area: run } = await b.run()
      return [run!.exit, run!.exit === 'debug' && run!.u64(debugPc)]
    },
    ['debug', 0x1002n],
    [
      {
        where: { accelerator: 'tcg' },
        outcome: ['io', false],
        why: 'TCG does not load breakpoints at VMRUN',
      },
    ],
  )
  check(
    'RDMSR of an unknown MSR exits where user space asked for it',
    documented('KVM_CAP_X86_USER_SPACE_MSR'),
    async (b) => {
      const mask = constant('KVM_MSR_EXIT_REASON_UNKNOWN') | constant('KVM_MSR_EXIT_REASON_INVAL')
      const enabled = await enable(b, CAP.X86_USER_SPACE_MSR, [mask])
      const vcpu = await b.guest('rdmsr')
      const { area: asked } = await b.run()
      await vcpu.area.write(offsetOf('kvm_run', 'msr.data'), pack(['u64', 0x1234]))
      const { area: told } = await b.run()
      const { index, reason } = asked!.msr
      return [enabled, asked!.exit, index, reason, told!.io.data[0], told!.io.data[1]]
    },
    [0, 'x86-rdmsr', 0xdead, constant('KVM_MSR_EXIT_REASON_UNKNOWN'), 0x34, 0x12],
  )
  check(
    'WRMSR of an unknown MSR exits with its value',
    documented('KVM_CAP_X86_USER_SPACE_MSR'),
    async (b) => {
      await enable(b, CAP.X86_USER_SPACE_MSR, [constant('KVM_MSR_EXIT_REASON_UNKNOWN')])
      await b.guest('wrmsr', { regs: { rcx: 0xdead, rax: 0x5678, rdx: 0x1234 } })
      const { area: run } = await b.run()
      return [run!.exit, run!.msr.index, run!.msr.data]
    },
    ['x86-wrmsr', 0xdead, 0x1234_0000_5678n],
  )
  check(
    'an MSR that the filter denies exits as filtered',
    documented('KVM_X86_SET_MSR_FILTER'),
    async (b) => {
      const filtered = constant('KVM_MSR_EXIT_REASON_FILTER')
      await enable(b, CAP.X86_USER_SPACE_MSR, [filtered])
      const flags = constant('KVM_MSR_FILTER_DEFAULT_DENY')
      const bitmap = await b.kvm.memory(4096)
      const range = structOf('kvm_msr_filter_range', { flags: 3, nmsrs: 8, base: 0xc000_0000 })
      const at = offsetOf('kvm_msr_filter', 'ranges')
      const filter = structOf('kvm_msr_filter', { flags })
      filter.set(range, at)
      const patches = [{ at: at + offsetOf('kvm_msr_filter_range', 'bitmap'), memory: bitmap }]
      const set = await b.vm(KVM.X86_SET_MSR_FILTER, filter, { patches })
      // IA32_SYSENTER_CS
      await b.guest('wrmsr', { regs: { rcx: 0x174 } })
      const { area: run } = await b.run()
      return [set, run!.exit, run!.msr.index, run!.msr.reason]
    },
    [0, 'x86-wrmsr', 0x174, constant('KVM_MSR_EXIT_REASON_FILTER')],
  )
  check(
    'an MSR that the filter allows does not exit',
    documented('KVM_X86_SET_MSR_FILTER'),
    async (b) => {
      await enable(b, CAP.X86_USER_SPACE_MSR, [constant('KVM_MSR_EXIT_REASON_FILTER')])
      await b.vm(KVM.X86_SET_MSR_FILTER, structOf('kvm_msr_filter'))
      await b.guest('wrmsr', { regs: { rcx: 0x174 } })
      return exitOf(await b.run())
    },
    'io',
  )
  check(
    'lowering CR8 exits when there is no LAPIC in the kernel',
    area,
    async (b) => {
      await b.guest('cr8')
      await b.setCpuid(await b.supportedCpuid())
      const set = await b.longMode()
      const { area: run } = await b.run()
      return [set, run!.exit, run!.cr8]
    },
    [0, 'set-tpr', 1n],
    [software([0, 'io', 1n], 'its guests change CR8 by themselves')],
  )
  check(
    'a read of the task priority exits where user space asked for it',
    area,
    async (b) => {
      await b.guest('tpr_read', { irqchip: true })
      await b.setSregs({ es: { base: 0xfee0_0000 } })
      const asked = await b.vcpu(KVM.TPR_ACCESS_REPORTING, structOf('kvm_tpr_access_ctl', { enabled: 1 }))
      const { area: run } = await b.run()
      const isAccess = run!.exit === 'tpr-access'
      return [asked, run!.exit, isAccess && run!.u64(offsetOf('kvm_run', 'tpr_access.rip') - 32)]
    },
    [0, 'tpr-access', 0x1000n],
    [software([0, 'io', false], 'its emulator does not report accesses')],
  )
  check(
    'the end of a level-triggered interrupt exits when the IOAPIC is in user space',
    documented('KVM_CAP_SPLIT_IRQCHIP'),
    async (b) => {
      const split = await enable(b, CAP.SPLIT_IRQCHIP, [24])
      await b.guest('eoi')
      await b.setSregs({ es: { base: 0xfee0_0000 } })
      // The spurious vector register's bit 8 turns the LAPIC on.
      const lapic = await b.get(KVM.GET_LAPIC, sizeOf('kvm_lapic_state'))
      lapic.set(pack(['u32', 0x1ff]), 0xf0)
      await b.vcpu(KVM.SET_LAPIC, lapic)
      const table = structOf('kvm_irq_routing', { nr: 1 }, sizeOf('kvm_irq_routing_entry'))
      // Vector 0x20, asserted, level: bits 14 and 15 of an MSI's data.
      const entry = structOf('kvm_irq_routing_entry', {
        gsi: 5,
        type: constant('KVM_IRQ_ROUTING_MSI'),
        'u.msi': structOf('kvm_irq_routing_msi', { address_lo: 0xfee0_0000, data: 0xc020 }),
      })
      table.set(entry, sizeOf('kvm_irq_routing'))
      const routed = await b.vm(KVM.SET_GSI_ROUTING, table)
      await b.vm(KVM.IRQ_LINE, structOf('kvm_irq_level', { irq: 5, level: 1 }))
      const { area: run } = await b.run()
      return [split, routed, run!.exit, run!.u8(0)]
    },
    [0, 0, 'ioapic-eoi', 0x20],
    [software([0, 0, 'io', 1], 'it does not tell user space the end of an interrupt')],
  )
  check(
    'a full dirty ring exits, and goes on when it was harvested',
    documented('KVM_CAP_DIRTY_LOG_RING'),
    async (b) => {
      const entries = 256
      const enabled = await enable(b, CAP.DIRTY_LOG_RING, [entries * sizeOf('kvm_dirty_gfn')])
      await b.guest('dirty')
      const memory = await b.kvm.memory(0xe_0000)
      await b.slot({
        slot: 1,
        at: 0x1_0000,
        bytes: 0xe_0000,
        memory,
        flags: constant('KVM_MEM_LOG_DIRTY_PAGES'),
      })
      const full = exitOf(await b.run())
      const vcpu = await b.vcpuOf()
      const { memory: ring } = await b.kvm.map(
        vcpu.fd,
        entries * sizeOf('kvm_dirty_gfn'),
        constant('KVM_DIRTY_LOG_PAGE_OFFSET') * 4096,
      )
      const dirty = await ring!.read()
      let harvested = 0
      for (let at = 0; at < dirty.length; at += sizeOf('kvm_dirty_gfn')) {
        if ((dirty[at]! & constant('KVM_DIRTY_GFN_F_DIRTY')) === 0) break
        await ring!.write(at, pack(['u32', constant('KVM_DIRTY_GFN_F_RESET')]))
        harvested++
      }
      const reset = await b.vm(KVM.RESET_DIRTY_RINGS)
      return [enabled, full, harvested > 0 && reset === harvested, exitOf(await b.run())]
    },
    [0, 'dirty-ring-full', true, 'io'],
    [
      software(
        expect.toBeOneOf([
          [0, 'dirty-ring-full', true, 'io'],
          [0, 'io', true, 'hlt'],
        ]),
        'its emulator writes past a full ring now and then',
      ),
    ],
  )
})

describe('exits of paravirtual interfaces', () => {
  check(
    'an unknown hypercall answers ENOSYS to the guest and does not exit',
    area,
    async (b) => {
      await b.guest('vmmcall', { regs: { rax: 99 } })
      const { area: run } = await b.run({ deadline: 500 })
      return run!.exit === 'io' ? Buffer.from(run!.io.data).readInt32LE() : run!.exit
    },
    -1000,
    [software('shutdown', 'it ends a guest that makes a VMMCALL in real mode')],
  )
  check(
    'the hypercall that maps memory exits where user space asked for it',
    documented('KVM_CAP_EXIT_HYPERCALL'),
    async (b) => {
      const mapGpaRange = 12
      const enabled = await enable(b, CAP.EXIT_HYPERCALL, [1 << mapGpaRange])
      await b.guest('vmmcall', { regs: { rax: mapGpaRange, rbx: 0x2000, rcx: 1, rdx: 0 } })
      const { area: run } = await b.run({ deadline: 500 })
      return [enabled, run!.exit]
    },
    [0, 'hypercall'],
    [software([0, 'shutdown'], 'it ends a guest that makes a VMMCALL in real mode')],
  )
  check(
    'a hypercall exits as Xen where user space asked for it',
    documented('KVM_XEN_HVM_CONFIG'),
    async (b) => {
      const flags = constant('KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL')
      const set = await b.vm(KVM.XEN_HVM_CONFIG, structOf('kvm_xen_hvm_config', { flags, msr: 0x4000_0000 }))
      await b.guest('vmmcall', { regs: { rax: 17 } })
      const { area: run } = await b.run({ deadline: 500 })
      return [set, run!.exit]
    },
    [0, 'xen'],
    [
      software(['ENOTTY', 'shutdown'], 'it is built without CONFIG_KVM_XEN'),
      {
        where: { without: 'CONFIG_KVM_XEN' },
        outcome: ['ENOTTY', 'io'],
        why: 'built without CONFIG_KVM_XEN',
      },
    ],
  )
  check(
    "a Hyper-V guest's crash is a system event",
    area,
    async (b) => {
      await b.guest('wrmsr', { regs: { rcx: hyperv.crashControl, rdx: 0x8000_0000 } })
      await sayHyperv(b)
      const { area: run } = await b.run()
      return [run!.exit, run!.systemEvent.type]
    },
    ['system-event', 3],
    [noHyperv(['shutdown', 0])],
  )
  check(
    "a Hyper-V guest's reset is a system event",
    area,
    async (b) => {
      await b.guest('wrmsr', { regs: { rcx: hyperv.reset, rax: 1 } })
      await sayHyperv(b)
      const { area: run } = await b.run()
      return [run!.exit, run!.systemEvent.type]
    },
    ['system-event', 2],
    [noHyperv(['shutdown', 0])],
  )
  check(
    'a change of the synthetic interrupt controller exits as Hyper-V',
    documented('KVM_CAP_HYPERV_SYNIC'),
    async (b) => {
      await b.guest('wrmsr', { irqchip: true, regs: { rcx: hyperv.scontrol, rax: 1 } })
      const enabled = await enableOnVcpu(b, CAP.HYPERV_SYNIC2)
      await sayHyperv(b)
      const { area: run } = await b.run()
      return [enabled, run!.exit, run!.u32(0)]
    },
    [0, 'hyperv', 1],
    [noHyperv(['EINVAL', 'shutdown', 0])],
  )
})

describe('exits that say that something is wrong', () => {
  check(
    'a code segment that is both 64 and 32 bits wide fails at the entry',
    area,
    async (b) => {
      await b.guest('cr8')
      await b.setCpuid(await b.supportedCpuid())
      const set = await b.longMode({ db: 1 })
      return [set, exitOf(await b.run())]
    },
    [0, 'fail-entry'],
    [software([0, 'io'], 'it does not look at that')],
  )
  check(
    'code where there is no memory is an internal error',
    deFacto('The kvm_run structure'),
    async (b) => {
      await b.guest('io_out', { regs: { rip: 0x9000 } })
      const { area: run } = await b.run()
      return [run!.exit, run!.internalError.suberror]
    },
    ['internal-error', 1],
  )
})
