import { expect, test } from 'vitest'
import { catalogue, catalogueOf } from './catalogue.ts'

test('an ioctl has its number, argument, file descriptor, capability and errors', () => {
  expect(catalogue.ioctl('KVM_GET_MSR_FEATURE_INDEX_LIST')).toMatchObject({
    nr: 0x0a,
    dir: 'rw',
    struct: 'kvm_msr_list',
    fd: ['sys'],
    cap: ['KVM_CAP_GET_MSR_FEATURES'],
    arch: ['x86'],
    doc: '4.3',
    since: '6.1',
    errnos: [
      { code: 'EFAULT', source: 'errtable' },
      { code: 'E2BIG', source: 'errtable' },
    ],
  })
  expect(catalogue.ioctl('KVM_GET_MSR_INDEX_LIST').cap).toEqual([])
})

// Numbers that every program which drives KVM carries in its binary: they can never change.
test.for([
  ['KVM_GET_API_VERSION', 0xae00, 0],
  ['KVM_RUN', 0xae80, 0],
  ['KVM_SET_USER_MEMORY_REGION', 0x4020ae46, 32],
  ['KVM_SET_REGS', 0x4090ae82, 144],
  ['KVM_GET_SREGS', 0x8138ae83, 312],
  ['KVM_SET_CPUID2', 0x4008ae90, 8],
  ['KVM_IRQFD', 0x4020ae76, 32],
  ['KVM_REINJECT_CONTROL', 0xae71, 32],
] as const)('%s', ([name, request, size]) => {
  for (const version of catalogue.versions) {
    expect(catalogueOf(version).request(name)).toBe(request)
    expect(catalogueOf(version).argumentSize(name)).toBe(size)
  }
  expect(catalogue.ioctlsByRequest(request).map((one) => one.name)).toContain(name)
})

test('what ioctls without a section need is added', () => {
  expect(catalogue.ioctl('KVM_SET_CPUID2')).toMatchObject({ fd: ['vcpu'], arch: ['x86'], errnos: [] })
  expect(catalogue.ioctl('KVM_SET_CPUID2').doc).toBeUndefined()
  const aimless = catalogue.ioctls.filter((one) => one.request !== undefined && one.fd.length === 0)
  expect(aimless.map((one) => one.name)).toEqual([])
})

test('lifetimes', () => {
  expect(catalogue.ioctl('KVM_SET_USER_MEMORY_REGION2').since).toBe('6.12')
  expect(catalogue.ioctl('KVM_ASSIGN_PCI_DEVICE')).toMatchObject({ since: '6.1', removed: '6.12' })
  expect(catalogue.ioctl('KVM_RUN')).not.toHaveProperty('removed')
  expect(() => catalogueOf('6.1').ioctl('KVM_SET_USER_MEMORY_REGION2')).toThrow(
    'look into the catalogue: KVM_SET_USER_MEMORY_REGION2: no such ioctl in 6.1; near: KVM_SET_USER_MEMORY_REGION,',
  )
})

test('one number on two kinds of file descriptor is two ioctls', () => {
  const request = catalogue.request('KVM_GET_ONE_REG')

  expect(catalogue.ioctlsByRequest(request).map((one) => one.name)).toEqual([
    'KVM_ARM_SET_DEVICE_ADDR',
    'KVM_GET_ONE_REG',
  ])
  expect(catalogue.ioctlsByRequest(request, 'vcpu').map((one) => one.name)).toEqual(['KVM_GET_ONE_REG'])
})

test('an ioctl of another architecture has no number here', () => {
  expect(() => catalogue.request('KVM_PPC_GET_PVINFO')).toThrow('not an ioctl of x86')
  expect(catalogue.ioctl('KVM_SET_REGS').requestArm64).toBe('0x4360ae82')
  expect(catalogue.struct('kvm_regs').sizeArm64).toBe(864)
})

test('exit reasons have the member of kvm_run that belongs to them', () => {
  expect(catalogue.exitReasonByValue(2)).toMatchObject({
    name: 'KVM_EXIT_IO',
    member: 'io',
    documented: true,
  })
  expect(catalogue.exitReason('KVM_EXIT_MEMORY_FAULT')).toMatchObject({
    value: 39,
    member: 'memory_fault',
    since: '6.12',
  })
  expect(catalogue.field('kvm_run', 'io.port')).toEqual([34, 2, 'u16'])
  expect(() => catalogue.exitReason('KVM_EXIT_IO_OUT')).toThrow('no such exit reason')
  for (const { member } of catalogue.exitReasons) {
    if (member) expect(catalogue.field('kvm_run', member)[0]).toBe(32)
  }
})

test('capabilities and constants', () => {
  expect(catalogue.capabilityByValue(catalogue.capability('KVM_CAP_SPLIT_IRQCHIP').value)).toMatchObject({
    name: 'KVM_CAP_SPLIT_IRQCHIP',
    enable: ['vm'],
    arch: ['x86'],
    doc: '7.5',
  })
  expect(catalogue.constant('KVM_MEM_LOG_DIRTY_PAGES')).toBe(1n)
  expect(catalogue.constant('KVM_XEN_INVALID_GPA')).toBe(2n ** 64n - 1n)
  expect(() => catalogue.constant('KVM_NOTHING')).toThrow('KVM_NOTHING: no such constant')
})

test('names of JavaScript are no entries', () => {
  expect(() => catalogue.ioctl('constructor')).toThrow('constructor: no such ioctl')
  expect(() => catalogue.field('kvm_run', 'toString')).toThrow('kvm_run.toString: no such field')
})

test('what is documented for x86 can be counted', () => {
  const { documented, errnoPairs } = {
    documented: catalogueOf('6.12').documented(),
    errnoPairs: catalogueOf('6.12').errnoPairs(),
  }

  expect(documented.map((one) => one.name)).toContain('KVM_RUN')
  expect(documented.map((one) => one.name)).not.toContain('KVM_S390_IRQ')
  expect(errnoPairs.filter(({ ioctl }) => ioctl === 'KVM_RUN').map(({ errno }) => errno.code)).toEqual([
    'EINTR',
  ])
})

test('sections are found by what they are about', () => {
  expect(
    ['KVM_RUN', 'KVM_CAP_SPLIT_IRQCHIP', 'The kvm_run structure'].map((one) => catalogue.section(one)),
  ).toEqual(['4.10', '7.5', '5'])
  // Renamed since.
  expect([catalogue.section('File descriptors'), catalogueOf('7.3').section('File descriptors')]).toEqual([
    '2',
    undefined,
  ])
  expect(['KVM_SET_CPUID2', 'KVM_NOTHING', 'constructor'].map((one) => catalogue.section(one))).toEqual([
    undefined,
    undefined,
    undefined,
  ])
})
