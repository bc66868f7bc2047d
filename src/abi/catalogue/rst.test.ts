import { expect, test } from 'vitest'
import { parseApi, readArchitectures, readErrnos, readFdKinds } from './rst.ts'

function section(number: string, title: string, fields: string[], body = ''): string {
  return `\n${number} ${title}\n${'-'.repeat(title.length + 5)}\n\n${fields.join('\n')}\n\n${body}\n`
}

const usual = [
  ':Capability: basic',
  ':Architectures: x86',
  ':Type: vm ioctl',
  ':Parameters: none',
  ':Returns: 0',
]

/** An api.rst as large as the real one has to be at least, with `extra` in its chapter 4. */
function apiText(extra = '', fields = usual): string {
  const many = (chapter: number, count: number, name: string) =>
    Array.from({ length: count }, (_, i) => section(`${chapter}.${i + 1}`, `${name}_${i}`, fields)).join('')
  const exits = Array.from({ length: 20 }, (_, i) => `/* KVM_EXIT_${'ABCDEFGHIJKLMNOPQRST'[i]} */`).join('\n')
  return `
4. API description
==================
${many(4, 100, 'KVM_DO')}${extra}
5. The kvm_run structure
========================

${exits}

6. Capabilities that can be enabled on vCPUs
============================================
${many(6, 50, 'KVM_CAP')}`
}

function lastIoctl(extra: string) {
  return parseApi(apiText(extra), 'test').ioctls.at(-1)!
}

test('a section has its names, its fields over several lines, and its text', () => {
  const found = lastIoctl(
    section(
      '4.116',
      'KVM_(UN)REGISTER_COALESCED_MMIO',
      [':Capability: KVM_CAP_COALESCED_MMIO (for mmio)', '\t     KVM_CAP_COALESCED_PIO', ':Type: vm ioctl'],
      'Text.',
    ),
  )

  expect(found.names).toEqual(['KVM_REGISTER_COALESCED_MMIO', 'KVM_UNREGISTER_COALESCED_MMIO'])
  expect(Object.fromEntries(found.fields)).toEqual({
    capability: 'KVM_CAP_COALESCED_MMIO (for mmio)\nKVM_CAP_COALESCED_PIO',
    type: 'vm ioctl',
  })
  expect(found.body.trim()).toBe('Text.')
})

test('section numbers repeat, names do not', () => {
  const extra = section('4.71', 'KVM_SIGNAL_MSI', usual) + section('4.71', 'KVM_CREATE_PIT2', usual)

  const found = parseApi(apiText(extra), 'test').ioctls.filter((one) => one.number === '4.71')

  expect(found.flatMap((one) => one.names)).toEqual(['KVM_DO_70', 'KVM_SIGNAL_MSI', 'KVM_CREATE_PIT2'])
})

test.for([
  ['', '0 sections on ioctls where at least 100'],
  [
    apiText()
      .replaceAll('4. API', '4 API')
      .replace(/^4\.(\d+)/gm, '4-$1'),
    '0 sections on ioctls',
  ],
  [
    apiText(
      '',
      usual.map((field) => field.replace(':Type:', '**Type**')),
    ),
    '0 sections on ioctls with the field type',
  ],
  [apiText().replaceAll('KVM_EXIT_', 'EXIT_'), '0 exit reasons in the chapter on struct kvm_run'],
  [apiText(section('4.200', 'About nothing', usual)), 'section 4.200 (About nothing) names no ioctl'],
] as const)('another layout is refused in one line', ([text, detail]) => {
  expect(() => parseApi(text, 'api.rst of 9.9')).toThrow(`read api.rst: api.rst of 9.9: ${detail}`)
})

test('errnos come from the table, from Returns and from the text, each from where it is clearest', () => {
  const found = lastIoctl(
    section(
      '4.200',
      'KVM_X',
      [
        ':Type: vm ioctl',
        ':Returns: 0 on success,',
        '         -EFAULT if it cannot be read,',
        '         -EINVAL if the bank is invalid',
      ],
      `Errors:

  =======    ==============
  EINVAL     the first row
             goes on (arm64)
  EBUSY      used with KVM_VM_S390_UCONTROL
  ENOTHING   no errno
  =======    ==============

It fails with E2BIG when there are too many.  Returns -EINVAL otherwise.`,
    ),
  )

  expect(readErrnos(found)).toEqual([
    { code: 'EINVAL', when: 'the first row goes on (arm64)', source: 'errtable', arch: ['arm64'] },
    { code: 'EBUSY', when: 'used with KVM_VM_S390_UCONTROL', source: 'errtable', arch: ['s390'] },
    { code: 'EFAULT', when: '-EFAULT if it cannot be read', source: 'returns' },
    { code: 'E2BIG', when: 'It fails with E2BIG when there are too many.', source: 'prose' },
  ])
})

test.for([
  ['all', ['all']],
  ['all except arm64', ['x86', 's390', 'ppc', 'mips', 'riscv', 'loongarch']],
  ['x86 SEV enabled', ['x86']],
  ['powerpc', ['ppc']],
  ['Any that implement pvclocks (currently x86 only)', ['x86']],
  ['none', []],
] as const)('architectures: %s', ([text, architectures]) => {
  expect(readArchitectures(text)).toEqual(architectures)
})

test.for([
  ['system ioctl, vcpu ioctl', ['sys', 'vcpu']],
  ['device ioctl, vm ioctl, vcpu ioctl', ['vm', 'vcpu', 'dev']],
  ['VM', ['vm']],
  ['nothing', []],
] as const)('file descriptors: %s', ([text, kinds]) => {
  expect(readFdKinds(text)).toEqual(kinds)
})
