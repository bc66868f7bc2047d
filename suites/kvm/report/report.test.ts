import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { catalogueFor, completeness } from './completeness.ts'
import { differences } from './differences.ts'
import { type Row, rowsOf } from './rows.ts'

function row(values: { name?: string; project?: string } & Partial<Row['check']>): Row {
  const { name = 'a check', project = 'kvm (lab 6.12)', ...check } = values
  return {
    project,
    name,
    passed: true,
    check: {
      claim: { basis: 'documented', section: 'KVM_RUN' },
      host: project,
      accelerator: 'tcg',
      kernel: '6.12.117-amd64',
      without: [],
      observed: '0',
      calls: [],
      exits: [],
      ...check,
    },
  }
}

const line = (found: { lines: string[] }, start: string) => found.lines.find((one) => one.startsWith(start))

test('a kernel is measured by the newest catalogue that is not newer', () => {
  const versions = ['6.1.0-56-cloud-amd64', '6.11.2', '6.12.117', '6.18.44-fc', '5.10.0'].map(
    (release) => catalogueFor(release).versions[0],
  )
  expect(versions).toEqual(['6.1', '6.1', '6.12', '6.12', '6.1'])
})

test('an ioctl counts when it was done on an fd that it is for', () => {
  const counted = (...calls: string[]) => line(completeness([row({ calls })]), 'documented')
  expect(counted('vcpu KVM_SET_REGS ok')).toMatch(/^documented x86 ioctls checked: 1 of 93;/)
  expect(counted('vm KVM_SET_REGS ENOTTY', 'sys KVM_SET_REGS EINVAL')).toMatch(
    /^documented x86 ioctls checked: 0 of 93;/,
  )
})

test('that a pointer to nothing is refused is no check of what an ioctl does', () => {
  const found = completeness([row({ calls: ['vcpu KVM_SET_REGS EFAULT', 'vcpu KVM_INTERRUPT EFAULT'] })])
  expect(found.lines.filter((one) => !one.startsWith(' '))).toEqual([
    'documented x86 ioctls checked: 0 of 93; 2 that no x86 code gives, 4 that need another host: 0 of 87 in reach',
    '(ioctl, errno) pairs hit: 1 of 45; 12 that no x86 code gives: 1 of 33 in reach',
    'exit reasons of x86 produced: 0 of 26; 1 that no x86 code gives, 5 that need another host: 0 of 20 in reach',
  ])
})

test('EINVAL of a vCPU that does not know a request hits nothing', () => {
  const unknown = completeness([row({ calls: ['vcpu KVM_GET_ONE_REG EINVAL'] })])
  const known = completeness([row({ calls: ['vcpu KVM_GET_ONE_REG EINVAL', 'vcpu KVM_GET_ONE_REG EFAULT'] })])
  expect([line(unknown, '(ioctl'), line(known, '(ioctl')]).toEqual([
    expect.stringMatching(/^\(ioctl, errno\) pairs hit: 0 of 45;/),
    expect.stringMatching(/^\(ioctl, errno\) pairs hit: 1 of 45;/),
  ])
})

test('what was reached all the same is in reach', () => {
  const figures = (...exits: string[]) => line(completeness([row({ exits })]), 'exit reasons')
  expect([figures('KVM_EXIT_HLT'), figures('KVM_EXIT_HLT', 'KVM_EXIT_NOTIFY')]).toEqual([
    'exit reasons of x86 produced: 1 of 26; 1 that no x86 code gives, 5 that need another host: 1 of 20 in reach',
    'exit reasons of x86 produced: 2 of 26; 1 that no x86 code gives, 4 that need another host: 2 of 21 in reach',
  ])
})

test('what is not reached needs a reason', () => {
  const { problems } = completeness([row({ exits: ['KVM_EXIT_HLT'] })])
  expect(problems).toContain('KVM_EXIT_IO: no check reaches it, and no reason says why')
  expect(problems).toContain('KVM_SET_REGS: no check reaches it, and no reason says why')
  expect(problems.filter((one) => /KVM_EXIT_(HLT|NOTIFY|S390_TSCH):/.test(one))).toEqual([])
})

test('a reason that no longer applies is a problem, on the hosts that it is for', () => {
  const stale = (check: Partial<Row['check']>) =>
    completeness([row(check)]).problems.filter((one) => one.includes('take the reason out'))
  expect(stale({ exits: ['KVM_EXIT_XEN'] })).toEqual([])
  expect(stale({ exits: ['KVM_EXIT_XEN'], without: ['CONFIG_KVM_XEN'] })).toEqual([
    'KVM_EXIT_XEN: a check reaches it now; take the reason out that says "built without CONFIG_KVM_XEN"',
  ])
  expect(stale({ calls: ['vm KVM_SET_MEMORY_ATTRIBUTES ok'] })).toEqual([
    expect.stringMatching(/^KVM_SET_MEMORY_ATTRIBUTES: a check reaches it now/),
  ])
})

const different = [
  row({ name: 'x', observed: "'ENOENT'" }),
  row({ name: 'x', project: 'kvm (lab 6.1)', observed: '0' }),
  row({ name: 'same' }),
  row({ name: 'same', project: 'kvm (lab 6.1)' }),
]

test('hosts that differ are one table', () => {
  expect(differences(different)).toEqual([
    '1 of 2 checks differ between hosts:',
    '   kvm (lab 6.12)  kvm (lab 6.1)',
    "x  'ENOENT'        0",
  ])
  expect(differences(different.slice(2))).toEqual(['no check differs between kvm (lab 6.12), kvm (lab 6.1)'])
  expect(differences(different.slice(0, 1))).toEqual([])
})

test('the table of JSON reports is a command', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'kvitest-report-'))
  const report = (rows: Row[]) =>
    JSON.stringify({
      testResults: [
        {
          assertionResults: [
            ...rows.map(({ name, check }) => ({
              fullName: name,
              status: 'passed',
              meta: { kvitestCheck: check },
            })),
            { fullName: 'no check', status: 'passed', meta: {} },
          ],
        },
      ],
    })
  const run = (...files: string[]) =>
    promisify(execFile)(process.execPath, [join(import.meta.dirname, 'differences.cli.ts'), ...files])
  try {
    expect(rowsOf(report(different))).toHaveLength(4)
    const [a, b, none] = ['a', 'b', 'none'].map((name) => join(folder, `${name}.json`)) as [
      string,
      string,
      string,
    ]
    await writeFile(a, report(different.filter((one) => one.project.includes('6.12'))))
    await writeFile(b, report(different.filter((one) => one.project.includes('6.1)'))))
    await writeFile(none, report([]))
    expect((await run(a, b)).stdout).toContain("x  'ENOENT'        0")
    await expect(run(a, none)).rejects.toMatchObject({
      stderr: expect.stringContaining('no behaviour check in it'),
    })
    await expect(run()).rejects.toMatchObject({ code: 2 })
  } finally {
    await rm(folder, { recursive: true })
  }
})
