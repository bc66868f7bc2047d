/** The fixtures and matchers of `kvitest/test`, and the API without vitest, as the documents show them. */
import { openHost } from 'kvitest'
import { describe, expect, test } from 'kvitest/test'

test('a guest of its own for each test: files of one', async ({ guest }) => {
  await guest.writeFile('/tmp/mark', 'first')
  const result = await guest.exec(['cat', '/tmp/mark'])
  expect(result).toExitWith(0)
  expect(result.stdout).toBe('first')
})

test('a guest of its own for each test: are not those of the next', async ({ guest }) => {
  const result = await guest.exec(['ls', '/tmp/mark'])
  expect(result).not.toExitWith(0)
})

describe('with options', () => {
  test.override('guestOptions', { kernel: 'debian:6.1-cloud', cpus: 2, devices: [{ type: 'virtio-rng' }] })

  test('the guest is the one asked for', async ({ guest }) => {
    const result = await guest.run(`
. /lib/kvitest/tap.sh
is "two CPUs" "$(nproc)" 2
like "kernel 6.1" "$(uname -r)" '^6\\.1\\.'
point "hw_random is virtio" grep -q virtio_rng /sys/class/misc/hw_random/rng_current
done_testing
`)
    expect(result).toAllPass()
    expect(result.tap.points).toHaveLength(3)
  })
})

describe('a guest that ends badly on purpose', () => {
  test.override('allowedVerdicts', ['panic'])

  test('is a panic', async ({ guest }) => {
    await expect(guest.exec(['sh', '-c', 'echo c > /proc/sysrq-trigger; sleep 60'])).rejects.toThrow(/panic/)
    expect((await guest.ended).verdict).toBe('panic')
  })
})

test('without vitest: several guests of two kernels at once on one host', async () => {
  await using host = await openHost()
  const kernels = ['debian:6.12-cloud', 'debian:6.1-cloud', 'debian:6.12-cloud', 'debian:6.1-cloud']
  const guests = await Promise.all(kernels.map((kernel) => host.boot({ kernel })))
  const releases = await Promise.all(
    guests.map(async (guest) => (await guest.exec(['uname', '-r'])).stdout.slice(0, 4)),
  )
  const ends = await Promise.all(guests.map((guest) => guest.stop()))
  expect(releases).toEqual(['6.12', '6.1.', '6.12', '6.1.'])
  expect(ends.map((end) => end.machine?.reason)).toEqual(kernels.map(() => 'poweroff'))
})

test.for(['lab:debian:6.12-cloud', 'lab:debian:6.1-cloud'])(
  'the host is chosen by name: %s',
  async (name) => {
    await using host = await openHost(name)
    await using guest = await host.boot({ kernel: 'debian:6.12-cloud', cpus: 2 })
    const result = await guest.exec(['nproc'])
    expect(host.info.name).toBe(name)
    expect(result.stdout).toBe('2\n')
  },
)

test.for(['pvh', 'bzimage'] as const)('the kernel is entered by %s', async (entry) => {
  await using host = await openHost()
  await using guest = await host.boot({ kernel: 'debian:6.1-cloud', entry })
  // 0xb0: a PVH loader that is not Xen; 0xff: the type our zero page names (Documentation/arch/x86/boot.rst).
  const loader = await guest.exec(['cat', '/proc/sys/kernel/bootloader_type'])
  expect(loader.stdout).toBe(entry === 'pvh' ? '176\n' : '255\n')
})
