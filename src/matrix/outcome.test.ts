import { describe, expect, test } from 'vitest'
import type { ProgramResult } from '../host/program/contract.ts'
import { guestResults, selftestResult, tapResults } from './outcome.ts'

const ended = (rest: Partial<ProgramResult>): ProgramResult => ({
  status: 0,
  signal: null,
  expired: false,
  duration: 5,
  lost: 0,
  stdout: '',
  stderr: '',
  ...rest,
})
const warning = '[   12.000000] WARNING: CPU: 0 PID: 9 at arch/x86/kvm/x86.c:1 kvm_arch+0x1/0x2 [kvm]'

describe('a selftest', () => {
  test.each([
    [{ status: 0 }, 'pass', undefined],
    [{ status: 2 }, 'pass', 'fails as it expects'],
    [{ status: 3 }, 'fail', 'exit status 3'],
    [{ status: 4, stdout: '1..0 # SKIP - requires nested\n' }, 'skip', 'requires nested'],
    [{ status: null, signal: 'SIGSEGV' }, 'fail', 'ended by SIGSEGV'],
    [{ status: null, signal: 'SIGKILL', expired: true }, 'timeout', 'not done after 20 s'],
    [{ status: 0, kernelLog: [warning] }, 'oops', 'WARNING: CPU: 0 PID: 9 at arch/x86/kvm/x86.c:1 kvm_arch'],
    [{ status: 4, kernelLog: [warning] }, 'oops', 'WARNING: CPU: 0 PID: 9 at arch/x86/kvm/x86.c:1 kvm_arch'],
  ] as const)('that ends so %o is %s', (end, verdict, reason) => {
    const result = selftestResult(ended(end as Partial<ProgramResult>), 20_000)
    expect(result.verdict).toBe(verdict)
    if (reason === undefined) expect(result.reason).toBeUndefined()
    else expect(result.reason).toContain(reason)
  })

  test('a failed assertion says where and what', () => {
    const stderr = `==== Test Assertion Failure ====
  x86_64/state_test.c:42: r == 0
  pid=7 tid=7 errno=22 - Invalid argument
`
    const { reason } = selftestResult(ended({ status: 254, stderr }), 20_000)
    expect(reason).toBe(
      'x86_64/state_test.c:42: r == 0: pid=7 tid=7 errno=22 - Invalid argument (exit status 254)',
    )
  })
})

describe('a program that prints TAP', () => {
  test('has a point for each of its own, and one for the run', () => {
    const stdout = 'ok 1 - a\n# why\nnot ok 2 - b\nok 3 - c # SKIP no such thing\n1..3\n'
    const points = tapResults(ended({ stdout }), 20_000)
    expect([...points].map(([name, { verdict, reason }]) => [name, verdict, reason])).toEqual([
      ['a', 'pass', undefined],
      ['b', 'fail', 'not ok 2 - b'],
      ['c', 'skip', 'no such thing'],
      ['the run', 'pass', undefined],
    ])
    expect(points.get('b')!.output).toContain('why')
  })

  test.each([
    ['a plan that was not kept', { stdout: '1..2\nok 1 - a\n' }, 'fail'],
    ['a name twice', { stdout: 'ok 1 - a\nok 2 - a\n1..2\n' }, 'two points named a'],
    ['a bail-out', { stdout: 'Bail out! no /dev/kvm\n' }, 'bail out: no /dev/kvm'],
    ['an exit status', { stdout: 'ok 1 - a\n1..1\n', status: 3 }, 'exit status 3'],
    ['a signal', { stdout: 'ok 1 - a\n1..1\n', status: null, signal: 'SIGABRT' }, 'ended by SIGABRT'],
  ] as const)('%s fails the run', (_, end, reason) => {
    const run = tapResults(ended(end), 20_000).get('the run')!
    expect(run.verdict).toBe('fail')
    if (reason !== 'fail') expect(run.reason).toContain(reason)
  })
})

test('a splat on the console of a guest is an oops, whatever its script said', () => {
  const stdout = 'ok 1 - a\n1..1\n'
  expect(guestResults(ended({ stdout }), 1000).get('the run')?.verdict).toBe('pass')
  expect(guestResults(ended({ stdout, stderr: warning }), 1000).get('the run')).toMatchObject({
    verdict: 'oops',
    reason: expect.stringMatching(/^in the guest: WARNING: /),
  })
})
