/** Checkpoints, forks and resets of real guests, wherever Linux guests run on this machine. */
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { startLabs } from '../host/index.ts'
import { openHost } from './host.ts'
import { guestKernels } from './testing/guest-kernels.ts'
import type { Guest, GuestCheckpoint, Host } from './types.ts'

let host: Host
let folder: string

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'kvitest-fork-'))
  host = await openHost()
})

afterAll(async () => {
  await host?.close()
  rmSync(folder, { recursive: true, force: true })
})

/** Stopped after the test, whatever becomes of it. */
async function own<T extends Guest>(guest: Promise<T>): Promise<T> {
  const begun = await guest
  onTestFinished(async () => void (await begun.stop({ force: true })))
  return begun
}

async function sh(guest: Guest, script: string): Promise<string> {
  const result = await guest.exec(['sh', '-c', script], { timeout: 60_000 })
  expect(result, script).toMatchObject({ status: 0 })
  return result.stdout.trim()
}

async function firstBytes(guest: Guest, port: string, length: number): Promise<string> {
  let text = ''
  for await (const data of guest.port(port)) {
    text += Buffer.from(data).toString()
    if (text.length >= length) break
  }
  return text
}

describe.for(guestKernels)('forks of one checkpoint of %s', (kernel) => {
  let checkpoint: GuestCheckpoint
  let original: Guest

  beforeAll(async () => {
    original = await host.boot({
      kernel,
      name: 'original',
      devices: [{ type: 'virtio-console', ports: [{ name: 'test.data' }] }, { type: 'virtio-rng' }],
    })
    // A moment that no fork can reach by itself, in the guest's past.
    await sh(original, 'date -s @1700000000; cat /proc/uptime >/tmp/uptime; echo kept >/tmp/file')
    checkpoint = await original.checkpoint()
  })

  afterAll(async () => {
    await checkpoint?.release()
    await original?.stop({ force: true })
  })

  test('share no random numbers and no ids', async () => {
    const forks = [await own(checkpoint.fork()), await own(checkpoint.fork())]
    const random = '/proc/sys/kernel/random'
    const script = `head -c 32 /dev/urandom | sha256sum; cat ${random}/uuid; cat ${random}/boot_id; cat ${random}/boot_id`
    const said = await Promise.all([...forks, original].map((guest) => sh(guest, script)))
    const columns = said.map((text) => text.split('\n'))
    for (const column of [0, 1, 2]) expect(new Set(columns.map((lines) => lines[column])).size).toBe(3)
    for (const lines of columns) expect(lines[3]).toBe(lines[2])
    for (const lines of columns)
      expect(lines[2]).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-/)
  })

  test('keep the wall clock by default, set it when asked, and never touch the monotonic clock', async () => {
    const forks = [await own(checkpoint.fork()), await own(checkpoint.fork({ clock: 'now' }))]
    const script = 'date +%s; cut -d. -f1 /proc/uptime /tmp/uptime'
    const said = await Promise.all(forks.map((guest) => sh(guest, script)))
    const [kept, jumped] = said.map((text) => text.split(/\s/).map(Number))
    expect(kept![0]! - 1_700_000_000).toBeLessThan(3600)
    expect(Math.abs(jumped![0]! - Date.now() / 1000)).toBeLessThan(3600)
    for (const [, now, then] of [kept!, jumped!]) {
      expect(now! - then!).toBeGreaterThanOrEqual(0)
      expect(now! - then!).toBeLessThan(3600)
    }
  })

  test('go on apart from each other and from the original', async () => {
    const [a, b] = [await own(checkpoint.fork()), await own(checkpoint.fork({ name: 'b' }))]
    await sh(a, 'rm /tmp/file')
    expect(await sh(b, 'cat /tmp/file')).toBe('kept')
    expect(await sh(original, 'cat /tmp/file')).toBe('kept')
    expect(b).toMatchObject({ name: 'b', forkedFrom: { name: 'original', bootTime: original.bootTime } })
    expect(b.kernelRelease).toBe(original.kernelRelease)
    expect((await a.stop()).verdict).toBe('skip')
  })

  test('a reset brings files and memory back, and the guest is whole', async () => {
    const fork = await own(checkpoint.fork())
    const before = await sh(fork, 'cat /proc/sys/kernel/random/boot_id')
    const hanging = fork.exec(['sleep', '600']).catch((error) => error)
    await sh(fork, 'rm /tmp/file; dd if=/dev/urandom of=/tmp/large bs=1M count=16 2>/dev/null')
    await fork.reset()
    expect(await hanging).toMatchObject({ code: 'ECANCELED' })
    expect(await sh(fork, 'cat /tmp/file; ls /tmp')).toBe('kept\nfile\nuptime')
    expect(await sh(fork, 'cat /proc/sys/kernel/random/boot_id')).not.toBe(before)
    expect(await sh(fork, 'ps | grep -c "[s]leep 600" || true')).toBe('0')
    await fork.reset()
    const result = await fork.run('\n. /lib/kvitest/tap.sh\npass "after two resets"\ndone_testing')
    expect(result).toMatchObject({ status: 0, tap: { problems: [] } })
    expect((await fork.stop()).verdict).toBe('pass')
  })

  test('has 16 forks alive at once', async () => {
    const forks = await Promise.all(Array.from({ length: 16 }, () => own(checkpoint.fork())))
    const ids = await Promise.all(forks.map((fork) => sh(fork, 'cat /proc/sys/kernel/random/uuid')))
    expect(new Set(ids).size).toBe(16)
  })
})

test('the VM generation ID changes and its interrupt arrives: the kernel reseeds by itself', async () => {
  const guest = await own(host.boot({ kernel: 'debian:6.12-cloud', name: 'vmgenid' }))
  // Of both generic event devices: nothing is plugged here, so the other's stays 0.
  const count = `awk '/ACPI:Ged/ { for (i = 2; i <= NF; i++) if ($i ~ /^[0-9]+$/) n += $i; else break } END { print n + 0 }' /proc/interrupts`
  expect(await sh(guest, count)).toBe('0')
  const fork = await own(guest.fork())
  expect(Number(await sh(fork, count))).toBeGreaterThan(0)
  expect(await sh(fork, 'dmesg')).toContain('crng reseeded due to virtual machine fork')
  expect(await sh(guest, 'dmesg')).not.toContain('virtual machine fork')
})

test('a timer that was armed before the checkpoint fires in the fork', async () => {
  const guest = await own(host.fork({ name: 'timer' }))
  await guest.spawn(['sh', '-c', 'sleep 5; echo over >/tmp/over'])
  const fork = await own(guest.fork())
  expect(Number(await sh(fork, 'ps | grep -c "[s]leep 5"'))).toBeGreaterThan(0)
  await sh(fork, 'until [ -e /tmp/over ]; do sleep 0.1; done')
  await sh(guest, 'until [ -e /tmp/over ]; do sleep 0.1; done')
})

test('an open port goes on in each fork, and what was written before comes once', async () => {
  const devices = [{ type: 'virtio-console' as const, ports: [{ name: 'test.data' }] }]
  const guest = await own(host.fork({ name: 'ports', devices }))
  const script =
    'exec 3<>/dev/virtio-ports/test.data; echo before >&3; while read -r line <&3; do echo "$line back" >&3; done'
  await guest.spawn(['sh', '-c', script])
  expect(await firstBytes(guest, 'test.data', 7)).toBe('before\n')
  const forks = [await own(guest.fork()), await own(guest.fork())]
  for (const [at, one] of [guest, ...forks].entries()) {
    expect(one.port('test.data').open).toBe(true)
    await one.port('test.data').write(`${at}\n`)
  }
  for (const [at, one] of [guest, ...forks].entries()) {
    expect(await firstBytes(one, 'test.data', 7)).toBe(`${at} back\n`)
  }
})

test('bytes that were sent to a guest and not read yet are read in the original and in the fork', async () => {
  const devices = [{ type: 'virtio-console' as const, ports: [{ name: 'test.data' }] }]
  const guest = await own(host.fork({ name: 'unread', devices }))
  // More than the driver's buffers hold: some of it waits in the device.
  const sent = Buffer.alloc(256 * 1024, 'not read yet ')
  await guest.spawn([
    'sh',
    '-c',
    `exec 3<>/dev/virtio-ports/test.data
     until [ -e /tmp/go ]; do sleep 0.1; done
     head -c ${sent.length} <&3 | sha256sum >/tmp/sum.new
     mv /tmp/sum.new /tmp/sum`,
  ])
  await guest.port('test.data').whenOpen()
  const writing = guest.port('test.data').write(sent)
  // An answer of the agent: the bytes that were sent before its question are with the device by now.
  await sh(guest, 'true')
  const fork = await own(guest.fork())
  const read = 'touch /tmp/go; until [ -e /tmp/sum ]; do sleep 0.1; done; cut -c 1-64 /tmp/sum'
  const sum = createHash('sha256').update(sent).digest('hex')
  expect([await sh(fork, read), await sh(guest, read)]).toEqual([sum, sum])
  await writing
})

test('a guest with two CPUs forks, and both of them run', async () => {
  const guest = await own(host.fork({ name: 'smp', cpus: 2 }))
  const fork = await own(guest.fork())
  const script =
    'nproc; for cpu in 0 1; do taskset -c $cpu sh -c "read pid _ </proc/self/stat; cut -d \\" \\" -f 39 /proc/\\$pid/stat"; done'
  expect(await sh(fork, script)).toBe('2\n0\n1')
  expect(await sh(guest, 'nproc')).toBe('2')
})

test('a guest forks while a script runs: the script goes on in the original, the fork can be used', async () => {
  const guest = await own(host.fork({ name: 'busy' }))
  let forking: Promise<Guest> | undefined
  const running = guest.run(
    '\n. /lib/kvitest/tap.sh\npass one\nuntil [ -e /tmp/go ]; do sleep 0.1; done\npass two\ndone_testing',
    {
      onPoint: () => {
        forking ??= guest.fork()
      },
    },
  )
  await expect.poll(() => forking, { timeout: 60_000 }).toBeDefined()
  const fork = await own(forking!)
  expect(
    await sh(
      fork,
      'touch /tmp/go; until ! ps | grep -q "[/]kvitest/1/script"; do sleep 0.1; done; echo over',
    ),
  ).toContain('over')
  expect(await sh(guest, 'ls /tmp')).toBe('')
  await sh(guest, 'touch /tmp/go')
  expect(await running).toMatchObject({ status: 0, tap: { plan: 2, problems: [] } })
})

test('one boot serves all who want the same guest in one place, at once and later', async () => {
  const labs = await startLabs({ labs: 1 })
  onTestFinished(() => labs.close())
  vi.stubEnv('KVITEST_LAB_SOCKET', labs.socket)
  onTestFinished(() => void vi.unstubAllEnvs())
  await using place = await openHost()
  const options = { memory: '128M', cmdline: 'kvitest.test=shared' }
  const together = await Promise.all([own(place.fork(options)), own(place.fork(options))])
  const later = await own(place.fork({ ...options, name: 'later' }))
  const other = await own(place.fork({ ...options, cpus: 2 }))
  const boots = [...together, later].map((guest) => guest.forkedFrom?.bootTime)
  expect(new Set(boots).size).toBe(1)
  expect(other.forkedFrom?.bootTime).not.toBe(boots[0])
  expect(later.name).toBe('later')
  expect(await sh(other, 'nproc')).toBe('2')
})

test('a checkpoint on disk goes on, and one that was changed or that is expected to be another is refused', async () => {
  const guest = await own(host.fork({ name: 'disk' }))
  await sh(guest, 'echo kept >/tmp/file')
  const saved = join(folder, 'saved')
  {
    await using checkpoint = await guest.checkpoint()
    await checkpoint.save(saved)
  }
  await guest.stop({ force: true })
  await using restored = await host.restore(saved)
  const fork = await own(restored.fork({ clock: 'now' }))
  expect(await sh(fork, 'cat /tmp/file')).toBe('kept')
  await expect(restored.fork({ expected: { cpus: 4 } })).rejects.toMatchObject({ code: 'EINVAL' })
  const changed = readFileSync(saved)
  changed[changed.length >> 1]! ^= 1
  writeFileSync(saved, changed)
  await expect(host.restore(saved)).rejects.toMatchObject({ code: 'EBADMSG' })
})
