import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { loadAddon } from './addon.ts'
import type { MachineSpec } from './contract.ts'
import { bareSpec, createBare, runBare, whyNoKvm } from './testing/bare-guest.ts'

const window = 256 * 1024
const reason = whyNoKvm()

describe('the addon without any KVM', () => {
  afterEach(() => {
    vi.unstubAllEnvs()
    vi.resetModules()
  })

  test('an addon that is not built says what to run', async () => {
    vi.stubEnv('KVITEST_ADDON', '/nowhere/kvitest.node')
    vi.resetModules()
    const fresh = await import('./addon.ts')

    expect(() => fresh.loadAddon()).toThrow(
      'load the native addon: /nowhere/kvitest.node is not there; run: npm run setup',
    )
  })

  test('a file that is no addon says so in one line', async () => {
    vi.stubEnv('KVITEST_ADDON', import.meta.filename)
    vi.resetModules()
    const fresh = await import('./addon.ts')

    expect(() => fresh.loadAddon()).toThrow(/^load the native addon: [^\n]*; run: npm run setup$/)
  })

  test.each<[string, unknown, string]>([
    ['no spec', undefined, 'the spec is not an object'],
    ['a name that is no string', { ...bareSpec('hello'), name: 1 }, 'name is not a string'],
    ['half a CPU', { ...bareSpec('hello'), cpus: 0.5 }, 'cpus is not a whole number'],
    ['nine CPUs', { ...bareSpec('hello'), cpus: 9 }, '9 vCPUs'],
    ['negative memory', { ...bareSpec('hello'), memory: -4096 }, 'memory is not a whole number'],
    ['odd memory', { ...bareSpec('hello'), memory: (2 << 20) + 1 }, 'bytes of memory'],
    ['an unknown payload', { ...bareSpec('hello'), payload: { kind: 'dos' } }, 'no payload of kind "dos"'],
    [
      'an unknown device',
      { ...bareSpec('hello'), devices: [{ type: 'floppy' }] },
      'no device of type "floppy"',
    ],
    ['ring 1', { ...bareSpec('hello'), payload: { kind: 'bare', elf: 'x', ring: 1 } }, 'ring 1'],
  ])('%s is refused with EINVAL', async (_name, spec, message) => {
    const attempt = loadAddon().createMachine(spec as MachineSpec, () => {})

    await expect(attempt).rejects.toMatchObject({
      name: 'KvitestError',
      code: 'EINVAL',
      message: expect.stringContaining(message),
    })
  })

  test('a parent-death signal that does not exist is refused', () => {
    expect(() => loadAddon().setParentDeathSignal(1000)).toThrow('the signal is not a whole number')
  })

  test.each([0, 4097])('%i bytes of entropy are refused before the kernel sees them', (size) => {
    expect(() => loadAddon().addEntropy(new Uint8Array(size))).toThrow(
      expect.objectContaining({
        code: 'EINVAL',
        message: expect.stringContaining('between 1 and 4096 bytes'),
      }),
    )
  })

  test.each([-1, 1.5, Number.NaN, 1e18])('the time %d is refused', (now) => {
    expect(() => loadAddon().setClock(now)).toThrow('the time is not a whole number')
  })
})

describe.skipIf(reason)(`bare guests on the local KVM${reason ? ` (skipped: ${reason})` : ''}`, () => {
  test('probe() tells the version and limits of /dev/kvm', async () => {
    const probe = await loadAddon().probe()

    expect(probe).toEqual({ apiVersion: 12, maxVcpus: expect.any(Number) })
    expect(probe.maxVcpus).toBeGreaterThan(0)
  })

  test.each([0, 3] as const)('hello prints in ring %i and exits with 0', async (ring) => {
    const { events, end, text } = await runBare(bareSpec('hello', ring))

    expect(text('debug')).toBe('hello from a bare guest\n')
    expect(end).toMatchObject({ reason: 'test-exit', code: 0, panicked: false, exits: { io: 25 } })
    expect(end.vcpus[0]!.registers.rip).toMatch(/^0x10/)
    expect(events.at(-1)!.type).toBe('end')
    expect(events.filter(({ type }) => type === 'end')).toHaveLength(1)
  })

  test.each([
    ['exit_code', { reason: 'test-exit', code: 0xdeadbeef }],
    ['halt', { reason: 'halt' }],
    ['triple_fault', { reason: 'triple-fault' }],
    ['out_of_range', { reason: 'test-exit', code: 0 }],
  ])('%s ends as %o', async (guest, expected) => {
    const { end } = await runBare(bareSpec(guest))

    expect(end).toMatchObject(expected)
    expect(end.detail).not.toBe('')
  })

  test('a hundred machines live and run at once', async () => {
    const machines = await Promise.all(
      Array.from({ length: 100 }, (_, i) => createBare(bareSpec('hello', i % 2 ? 3 : 0))),
    )
    const alive = loadAddon().counts().machines

    await Promise.all(machines.map(({ machine }) => machine.start()))
    const ends = await Promise.all(machines.map(({ ended }) => ended))
    await Promise.all(machines.map(({ machine }) => machine.stop()))

    expect(alive).toBe(100)
    expect(new Set(ends.map(({ reason }) => reason))).toEqual(new Set(['test-exit']))
    expect(new Set(machines.map(({ text }) => text('debug')))).toEqual(new Set(['hello from a bare guest\n']))
    expect(loadAddon().counts()).toEqual({ machines: 0, threads: 0, checkpoints: 0, rawSessions: 0 })
  })

  test('a spinning guest is inspected, goes on, and stops at once', async () => {
    const { machine, said } = await createBare(bareSpec('spin', 3))
    await machine.start()
    await said('debug', 'spinning\n')
    const [first] = await machine.inspect()
    const [second] = await machine.inspect()

    const end = await machine.stop()

    expect(first!.registers.rip).toBe(second!.registers.rip)
    expect(second!.registers.rbx).toBe('0x5917')
    expect(first!.interruptsEnabled).toBe(false)
    expect(end.reason).toBe('stopped')
  })

  test('a flood that nobody takes is held back at the window, and goes on with credit', async () => {
    const { machine, text } = await createBare(bareSpec('flood'), { acknowledge: false })
    await machine.start()
    await vi.waitUntil(() => text('debug').length >= window, { timeout: 60_000, interval: 20 })
    await sleep(100)
    const held = text('debug').length

    machine.consumed('debug', window)
    await vi.waitUntil(() => text('debug').length > held, { timeout: 60_000, interval: 20 })
    const end = await machine.stop()

    expect(held).toBeLessThan(window + 4096)
    expect(end.reason).toBe('stopped')
    expect(text('debug').startsWith('abcdefghijklmnopqrstuvwxyzabc')).toBe(true)
  })

  test('stop() is idempotent and answers the same end', async () => {
    const { machine } = await createBare(bareSpec('hello'))

    const ends = await Promise.all([machine.stop(), machine.stop()])

    expect(ends[0]).toEqual(ends[1])
    expect(await machine.stop()).toEqual(ends[0])
    expect(ends[0]).toMatchObject({ reason: 'stopped', elapsed: 0 })
  })

  test('calls that come too late or too often say why', async () => {
    const { machine } = await createBare(bareSpec('spin', 3))
    await machine.start()

    await expect(machine.start()).rejects.toMatchObject({ code: 'EALREADY' })
    await expect(machine.nmi()).rejects.toMatchObject({ code: 'EOPNOTSUPP' })
    await expect(machine.write('nowhere', new Uint8Array(1))).rejects.toMatchObject({
      code: 'ENOENT',
      hint: 'its channels: serial debug',
    })
    await expect(machine.resize('nowhere', 80, 25)).rejects.toMatchObject({ code: 'ENOENT' })
    await machine.stop()
    await expect(machine.start()).rejects.toMatchObject({ code: 'EPIPE' })
    await expect(machine.write('serial', new Uint8Array(1))).rejects.toMatchObject({ code: 'EPIPE' })
  })

  test('a pending write fails with EPIPE when its machine ends', async () => {
    const { machine } = await createBare(bareSpec('spin', 3))
    await machine.start()
    const write = machine.write('serial', new Uint8Array(1 << 20))
    const outcome = expect(write).rejects.toMatchObject({ code: 'EPIPE' })

    await machine.stop()

    await outcome
  })

  test('an ELF that is not there is refused with its path', async () => {
    await expect(createBare(bareSpec('no-such-guest'))).rejects.toMatchObject({
      code: 'ENOENT',
      message: expect.stringContaining('no-such-guest.elf'),
    })
  })
})
