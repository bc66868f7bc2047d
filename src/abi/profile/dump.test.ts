import { expect, test } from 'vitest'
import { openMachineHost } from '../../host/index.ts'
import { RawKvm } from '../../host/raw/kvm.ts'
import { whyNoKvm } from '../../native/testing/bare-guest.ts'
import { catalogue } from '../catalogue/catalogue.ts'
import { dumpHost, dumpProfile } from './dump.ts'
import { msrName } from './msr-names.ts'
import { fieldsOf } from './probes/state.ts'
import { renderProfile } from './profile.ts'
import { maskOf, structure } from './session.ts'

test('a host that is none is refused', async () => {
  await expect(dumpHost('mars')).rejects.toMatchObject({
    code: 'EINVAL',
    message: expect.stringMatching(/^open the host: mars: no such host; use /),
  })
  await expect(dumpHost('auto')).rejects.toMatchObject({ code: 'EINVAL' })
})

test('fields of a structure are read by the catalogue', () => {
  const regs = structure('kvm_regs', { rip: 0xfff0, rflags: 2 })
  const debug = structure('kvm_debugregs', { dr6: 0xffff_0ff0 })
  const fpu = structure('kvm_fpu', { fcw: 0x37f })
  fpu[catalogue.field('kvm_fpu', 'xmm')[0] + 15] = 0xab

  expect(fieldsOf('kvm_regs', regs, 'r')).toMatchObject({
    'r.rip': '0xfff0',
    'r.rflags': '0x2',
    'r.rax': '0x0',
  })
  expect(fieldsOf('kvm_debugregs', debug, 'd')).toEqual({
    'd.db[0]': '0x0',
    'd.db[1]': '0x0',
    'd.db[2]': '0x0',
    'd.db[3]': '0x0',
    'd.dr6': '0xffff0ff0',
    'd.dr7': '0x0',
    'd.flags': '0x0',
  })
  const xmm = fieldsOf('kvm_fpu', fpu, 'f')
  expect(xmm['f.fpr']).toBe('0x0')
  expect(xmm['f.xmm']).toBe(`0x${'00'.repeat(15)}ab${'00'.repeat(240)}`)
  expect(fieldsOf('kvm_sregs', structure('kvm_sregs', {}), 's')).toHaveProperty(['s.cs.base'], '0x0')
})

test('masks and names of MSRs', () => {
  expect(maskOf(32, (bit) => bit === 0 || bit === 31)).toBe('0x80000001')
  expect([0x10, 0xc0000081, 0x40000093, 0x480, 0xdead].map(msrName)).toEqual([
    'MSR_TSC',
    'MSR_STAR',
    'MSR_HV_SINT3',
    'MSR_VMX_BASIC',
    '0xdead',
  ])
})

const reason = whyNoKvm()

test.skipIf(reason)(
  `two profiles of this machine are the same bytes, and say what its KVM says${reason ? ` (skipped: ${reason})` : ''}`,
  async () => {
    await using host = await openMachineHost('local')
    await using kvm = new RawKvm(await host.openRaw())
    const { fd } = await kvm.open()
    const ask = async (name: string, argument: number) =>
      (await kvm.ioctl(fd!, catalogue.request(name), argument)).value

    const [one, other] = [await dumpProfile(host), await dumpProfile(host)]

    expect(renderProfile(other)).toBe(renderProfile(one))
    const memslots = catalogue.capability('KVM_CAP_NR_MEMSLOTS').value
    expect(one.abi).toMatchObject({
      'cap.KVM_CAP_NR_MEMSLOTS.sys': await ask('KVM_CHECK_EXTENSION', memslots),
      'cap.KVM_CAP_USER_MEMORY.vm': 1,
      'size.kvm_run': await ask('KVM_GET_VCPU_MMAP_SIZE', 0),
      'ioctl.KVM_GET_REGS.vcpu.null': 'EFAULT',
      'ioctl.KVM_GET_REGS.vcpu.zero': 0,
      'state.KVM_GET_REGS.rip': '0xfff0',
      'exit.mmio_write': 'mmio',
    })
    expect(one.environment).toMatchObject({ host: 'local', 'kernel.release': host.info.kernelRelease })
    expect(one.volatile).toContain('msr.index.MSR_TSC')
  },
)
