import { expect, test } from 'vitest'
import { compareProfiles } from './diff.ts'
import type { Profile } from './profile.ts'
import { profileOf } from './testing/profile-of.ts'
import { renderHuman, renderMarkdown } from './text.ts'

/** Class and reason of each key's change, of two profiles on one machine. */
function classes(before: Partial<Profile>, after: Partial<Profile>): Record<string, string> {
  const changes = compareProfiles([profileOf(before), profileOf(after)])
  return Object.fromEntries(changes.map(({ key, class: kind, reason }) => [key, `${kind}: ${reason}`]))
}

test('a profile does not differ from itself', () => {
  const one = profileOf({
    environment: { 'kernel.release': '6.1' },
    abi: { 'cap.A.sys': 1 },
    machine: { 'cpuid.supported.0x1.eax': '0x1' },
    volatile: ['msr.index.MSR_TSC'],
  })

  expect(compareProfiles([one, one])).toEqual([])
  expect(renderHuman([])).toEqual(['0 breaking, 0 tightened, 0 additive, 0 environment, 0 info'])
})

test('each kind of change has its class and the reason for it', () => {
  const before = {
    'cap.KVM_CAP_ONE.sys': 1,
    'cap.KVM_CAP_TWO.sys': 0,
    'cap.KVM_CAP_SYNC_REGS.sys': 7,
    'cap.KVM_CAP_X2APIC_API.sys': 3,
    'cap.KVM_CAP_MAX_VCPUS.sys': 1024,
    'ioctl.KVM_GET_NR_MMU_PAGES.vm.null': 'ok',
    'ioctl.KVM_CREATE_PIT2.vm.zero': 0,
    'ioctl.KVM_SET_USER_MEMORY_REGION2.vm.null': 'ENOTTY',
    'ioctl.KVM_GET_ONE_REG.vcpu.null': 'EINVAL',
    'ioctl.KVM_SET_SREGS2.vcpu.null': 'EFAULT',
    'ioctl.KVM_GET_ONE_REG.vcpu.zero': 'EINVAL',
    'flags.KVM_SET_USER_MEMORY_REGION.flags': '0x3',
    'flags.KVM_SET_VCPU_EVENTS.flags': '0xf',
    'exit.no_memory': 'ENOSPC',
    'exit.io_out.rip': '0x1002',
    'stats.vm.pages_4k': '0x1',
    'state.KVM_GET_SREGS.cr0': '0x60000010',
    'msr.index.MSR_HV_RESET': '0x0',
  }
  const after = {
    'cap.KVM_CAP_ONE.sys': 0,
    'cap.KVM_CAP_TWO.sys': 1,
    'cap.KVM_CAP_SYNC_REGS.sys': 3,
    'cap.KVM_CAP_X2APIC_API.sys': 15,
    'cap.KVM_CAP_MAX_VCPUS.sys': 288,
    'ioctl.KVM_GET_NR_MMU_PAGES.vm.null': 'ENOTTY',
    'ioctl.KVM_CREATE_PIT2.vm.zero': 'ENOENT',
    'ioctl.KVM_SET_USER_MEMORY_REGION2.vm.null': 'EFAULT',
    'ioctl.KVM_GET_ONE_REG.vcpu.null': 'EFAULT',
    'ioctl.KVM_SET_SREGS2.vcpu.null': 'EINVAL',
    'ioctl.KVM_GET_ONE_REG.vcpu.zero': 'ENOENT',
    'flags.KVM_SET_USER_MEMORY_REGION.flags': '0x7',
    'flags.KVM_SET_VCPU_EVENTS.flags': '0x7',
    'exit.no_memory': 'internal-error',
    'exit.io_out.rip': '0x1004',
    'stats.vcpu.exits': '0x0',
    'state.KVM_GET_SREGS.cr0': '0x10',
  }

  expect(classes({ abi: before }, { abi: after })).toMatchInlineSnapshot(`
    {
      "cap.KVM_CAP_MAX_VCPUS.sys": "breaking: a limit is lower",
      "cap.KVM_CAP_ONE.sys": "breaking: a capability is gone: who needs it stops",
      "cap.KVM_CAP_SYNC_REGS.sys": "breaking: a bit that could be asked for is gone",
      "cap.KVM_CAP_TWO.sys": "additive: a capability that is new",
      "cap.KVM_CAP_X2APIC_API.sys": "additive: a bit that can be asked for is new",
      "exit.io_out.rip": "breaking: RIP at the exit is what tools resume from and save",
      "exit.no_memory": "breaking: KVM_RUN leaves the guest for another reason",
      "flags.KVM_SET_USER_MEMORY_REGION.flags": "additive: a bit that was refused is accepted",
      "flags.KVM_SET_VCPU_EVENTS.flags": "tightened: a bit that was accepted is refused",
      "ioctl.KVM_CREATE_PIT2.vm.zero": "tightened: what was accepted is refused",
      "ioctl.KVM_GET_NR_MMU_PAGES.vm.null": "breaking: the ioctl is gone",
      "ioctl.KVM_GET_ONE_REG.vcpu.null": "additive: the ioctl is new",
      "ioctl.KVM_GET_ONE_REG.vcpu.zero": "info: refused as before, with another errno: only who tells errnos apart sees it",
      "ioctl.KVM_SET_SREGS2.vcpu.null": "breaking: the ioctl is gone",
      "ioctl.KVM_SET_USER_MEMORY_REGION2.vm.null": "additive: the ioctl is new",
      "msr.index.MSR_HV_RESET": "tightened: one MSR less to save: fine for who goes by the list, not for who names it",
      "state.KVM_GET_SREGS.cr0": "info: what nobody has set starts with another value",
      "stats.vcpu.exits": "additive: a statistic that is new",
      "stats.vm.pages_4k": "breaking: a statistic is gone: who reads it by name finds none",
    }
  `)
})

test('what the CPU decides is of the environment where the CPU is another one, and of KVM where it is not', () => {
  const key = 'cpuid.supported.0x7.0x0.ebx'
  const on = (model: string, ebx: string) => ({
    environment: { 'cpu.model_name': model },
    machine: { [key]: ebx },
  })

  expect(classes(on('one', '0x3'), on('other', '0x1'))[key]).toBe(
    'environment: the machine under KVM is another one',
  )
  expect(classes(on('one', '0x3'), on('one', '0x1'))[key]).toBe(
    'breaking: KVM offers less: a guest that was started with it cannot move here',
  )
  expect(classes(on('one', '0x1'), on('one', '0x3'))[key]).toBe('additive: KVM offers more to guests')
})

test('a value that does not keep still is compared as there or not there', () => {
  const key = 'msr.index.MSR_TSC'

  expect(classes({ volatile: [key] }, { volatile: [key] })).toEqual({})
  expect(classes({ volatile: [key] }, { machine: { [key]: '0x1' } })).toEqual({})
  expect(classes({ volatile: [key] }, {})).toEqual({
    [key]: 'tightened: one MSR less to save: fine for who goes by the list, not for who names it',
  })
})

test('the worst comes first, environment is counted, and tools are named', () => {
  const before = profileOf({
    environment: { 'kernel.release': '6.1' },
    abi: { 'cap.KVM_CAP_TWO.sys': 0, 'cap.KVM_CAP_ONE.vm': 1, 'flags.KVM_SET_VCPU_EVENTS.flags': '0xf' },
  })
  const after = profileOf({
    environment: { 'kernel.release': '6.12' },
    abi: { 'cap.KVM_CAP_TWO.sys': 1, 'cap.KVM_CAP_ONE.vm': 0, 'flags.KVM_SET_VCPU_EVENTS.flags': '0x1f' },
  })
  const changes = compareProfiles([before, after], (key) => (key.startsWith('cap.') ? ['tool 1'] : []))

  expect(renderHuman(changes)).toMatchInlineSnapshot(`
    [
      "breaking:",
      "  cap.KVM_CAP_ONE.vm: 1 -> 0 (a capability is gone: who needs it stops; used by tool 1)",
      "additive:",
      "  cap.KVM_CAP_TWO.sys: 0 -> 1 (a capability that is new; used by tool 1)",
      "  flags.KVM_SET_VCPU_EVENTS.flags: 0xf -> 0x1f [+bit 4] (a bit that was refused is accepted)",
      "1 breaking, 0 tightened, 2 additive, 1 environment, 0 info",
    ]
  `)
  expect(renderHuman(changes, { showAll: true })).toContain(
    '  kernel.release: 6.1 -> 6.12 (where the profile was taken)',
  )
  expect(renderMarkdown(changes, 'a -> b').slice(0, 9)).toMatchInlineSnapshot(`
    [
      "## a -> b",
      "",
      "1 breaking, 0 tightened, 2 additive, 1 environment, 0 info",
      "",
      "### breaking: 1",
      "| key | before -> after | why | used by |",
      "|---|---|---|---|",
      "| \`cap.KVM_CAP_ONE.vm\` | 1 -> 0 | a capability is gone: who needs it stops | tool 1 |",
      "",
    ]
  `)
})
