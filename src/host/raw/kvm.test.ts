import { describe, expect, onTestFinished, test } from 'vitest'
import { loadAddon } from '../../native/addon.ts'
import { whyNoKvm } from '../../native/testing/bare-guest.ts'
import { type RawFd, RawKvm } from './kvm.ts'
import { makeCalls } from './place.ts'

const createVm = 0xae01
const checkExtension = 0xae03
const setMemoryRegion = 0x4020ae46

async function openRaw(): Promise<RawKvm> {
  const raw = await loadAddon().openRaw()
  const kvm = new RawKvm({ batch: (steps) => makeCalls(raw, steps), close: () => raw.close() })
  onTestFinished(() => kvm.end())
  return kvm
}

describe('a batch', () => {
  test('answers each call in the order they are written, groups too', async () => {
    const kvm = await openRaw()

    const results = await kvm.batch([
      { do: 'map', bytes: 4096, as: 1 },
      [
        { do: 'write', memory: 1, offset: 0, data: Buffer.from('ab'), thread: 'one' },
        { do: 'write', memory: 1, offset: 2, data: Buffer.from('cd'), thread: 'two' },
      ],
      { do: 'read', memory: 1, offset: 0, length: 4 },
    ])

    expect(results.map(({ value }) => value)).toEqual([0, 0, 0, 0])
    expect(Buffer.from(results[3]!.data!).toString()).toBe('abcd')
  })

  test('goes on after an errno', async () => {
    const kvm = await openRaw()

    const results = await kvm.batch([
      { do: 'open', path: '/no/such/device', as: 1 },
      { do: 'map', bytes: 4096, as: 1 },
    ])

    expect(results).toEqual([
      { value: -1, errno: 'ENOENT' },
      { value: 0, address: expect.any(BigInt) },
    ])
  })

  test('rejects at a call that could not be made, by its number', async () => {
    const kvm = await openRaw()

    const batch = kvm.batch([
      { do: 'map', bytes: 4096, as: 1 },
      [
        { do: 'read', memory: 1, offset: 0, length: 1 },
        { do: 'ioctl', fd: 7, request: createVm },
      ],
    ])

    await expect(batch).rejects.toMatchObject({
      code: 'EBADF',
      message:
        'raw KVM access: call 2 (ioctl 0xae01): there is no fd 7 (Bad file descriptor); it was never made, or is closed',
    })
  })

  test('refuses what is not as the contract says', async () => {
    const kvm = await openRaw()
    // biome-ignore lint/suspicious/noExplicitAny: a caller without types
    const refused = (call: any) => expect(kvm.batch([call])).rejects.toMatchObject({ code: 'EINVAL' })

    await refused({ do: 'fly' })
    await refused({ do: 'open', path: 1, as: 1 })
    await refused({ do: 'open', path: '/dev/null', as: -1 })
    await refused({ do: 'map', bytes: 2 ** 41, as: 1 })
    await refused({ do: 'ioctl', fd: 1, request: 2 ** 33 })
    await refused({ do: 'run', vcpu: 1, area: 1, repeat: 0 })
    await refused('open')
  })
})

test('memory keeps more than one message holds, and says what is outside', async () => {
  const kvm = await openRaw()
  const memory = await kvm.memory(3 << 20)
  const data = Uint8Array.from({ length: 1 << 20 }, (_, i) => (i * 7) >> 3)

  await memory.write(123, data)

  expect(Buffer.from(await memory.read(123, data.length)).equals(data)).toBe(true)
  await expect(memory.read(3 << 20, 1)).rejects.toMatchObject({ code: 'EINVAL' })
})

test('huge memory is aligned to huge pages', async () => {
  const kvm = await openRaw()

  const { address } = await kvm.memory(4 << 20, { huge: true })

  expect(address % (2n << 20n)).toBe(0n)
})

test('an eventfd counts, and says when it has nothing', async () => {
  const kvm = await openRaw()
  const fd = await kvm.eventfd({ initial: 2 })

  expect(Buffer.from((await kvm.readFd(fd, 8)).data!).readBigUInt64LE()).toBe(2n)
  expect((await kvm.readFd(fd, 8)).errno).toBe('EAGAIN')
  expect((await kvm.writeFd(fd, new Uint8Array(4))).errno).toBe('EINVAL')
})

test('a call that waits in vain answers at its deadline', async () => {
  const kvm = await openRaw()

  const [answer] = await kvm.batch([{ do: 'signal', target: 'nobody', deadline: 50 }])

  expect(answer).toEqual({ value: 0, expired: true })
})

test('closing answers what waits, and refuses what comes', async () => {
  const kvm = await openRaw()
  const waits = kvm.batch([{ do: 'signal', target: 'nobody', deadline: 3_600_000 }])
  await kvm.batch([{ do: 'map', bytes: 4096, as: 1, thread: 'other' }])

  await kvm.end()

  expect((await waits)[0]).toMatchObject({ expired: true })
  await expect(kvm.eventfd()).rejects.toMatchObject({ code: 'ECANCELED' })
})

const reason = whyNoKvm()

describe.skipIf(reason)(`numbers of this process${reason ? ` (skipped: ${reason})` : ''}`, () => {
  async function vmOf(kvm: RawKvm): Promise<RawFd> {
    const { fd: system } = await kvm.open()
    const { fd: vm, value } = await kvm.ioctl(system!, createVm)
    expect(value).toBe(0)
    return vm!
  }

  test('an address that was put into an argument comes back as zeros', async () => {
    const kvm = await openRaw()
    const vm = await vmOf(kvm)
    const memory = await kvm.memory(0x1000)
    const region = new Uint8Array(32)
    region[17] = 0x10

    const answer = await kvm.ioctl(vm, setMemoryRegion, region, { patches: [{ at: 24, memory }] })

    expect(answer).toEqual({ value: 0, data: region })
  })

  test('an fd is refused once it is closed', async () => {
    const kvm = await openRaw()
    const vm = await vmOf(kvm)

    expect(await kvm.close(vm)).toEqual({ value: 0 })

    await expect(kvm.ioctl(vm, checkExtension)).rejects.toMatchObject({ code: 'EBADF' })
  })
})
