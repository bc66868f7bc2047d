/** Real guests of both kernels, through our own VMM, wherever Linux guests run on this machine. */
import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { GuestError } from './error.ts'
import type { LinuxGuest } from './guest.ts'
import { openHost } from './host.ts'
import { guestKernels } from './testing/guest-kernels.ts'
import type { Guest, Host } from './types.ts'

const fixture = (name: string) => new URL(`../../fixtures/scripts/${name}.tap.sh`, import.meta.url).pathname

let host: Host

beforeAll(async () => {
  host = await openHost()
})

afterAll(async () => {
  await host?.close()
})

describe.for(guestKernels)('a guest of %s', (kernel) => {
  let guest: Guest

  beforeAll(async () => {
    guest = await host.boot({
      kernel,
      cpus: 1,
      memory: '256M',
      name: 'shared',
      devices: [
        { type: 'virtio-console', ports: [{ name: 'test.data' }, { name: 'test.more' }] },
        { type: 'virtio-rng' },
      ],
    })
  })

  afterAll(async () => {
    await guest?.stop({ force: true })
  })

  test('greets with its release and without warnings', () => {
    expect(guest.kernelRelease).toBe(guest.kernel.release)
    expect(guest.bootTime).toBeGreaterThan(0)
    expect((guest as LinuxGuest).warnings).toEqual([])
  })

  test('has the file systems, devices and names that scripts rely on', async () => {
    const script = `
      set -e
      for point in /proc /sys /dev /dev/pts /dev/shm /tmp /run; do grep -q " $point " /proc/mounts || echo "no $point"; done
      test "$(hostname)" = guest || echo hostname
      test "$(cat /proc/1/oom_score_adj) $(cat /proc/self/oom_score_adj)" = "-1000 0" || echo oom
      ping -c 1 -W 2 127.0.0.1 >/dev/null || echo lo
      test -e /dev/stdin && test -e /dev/fd || echo links
      echo "$PATH"; ls /dev/virtio-ports`
    const result = await guest.exec(['sh', '-c', script])
    expect(result).toMatchObject({
      status: 0,
      stdout: '/bin:/sbin:/usr/bin:/usr/sbin\norg.kvitest.agent\ntest.data\ntest.more\n',
      stderr: '',
    })
  })

  test('keeps stdout, stderr and status apart', async () => {
    expect(await guest.exec(['sh', '-c', 'echo out; echo err >&2; exit 7'])).toMatchObject({
      status: 7,
      stdout: 'out\n',
      stderr: 'err\n',
    })
  })

  test('takes environment, working directory and stdin', async () => {
    const result = await guest.exec(['sh', '-c', 'echo "$COLOUR $PWD"; cat'], {
      env: { COLOUR: 'a b' },
      cwd: '/tmp',
      stdin: 'typed\n',
    })
    expect(result.stdout).toBe('a b /tmp\ntyped\n')
  })

  test('a command over its time is killed with all it started', async () => {
    const result = await guest.exec(['sh', '-c', "trap '' TERM; sleep 1234 & while :; do sleep 0.1; done"], {
      timeout: 500,
    })
    expect(result).toMatchObject({ status: null, timedOut: true })
    const left = await guest.exec(['sh', '-c', "ps | grep -c '[s]leep 1234'"])
    expect(left.stdout).toBe('0\n')
  })

  test('4 MiB pass each way with the same checksum', async () => {
    const data = Buffer.alloc(4 * 1024 * 1024, 'all work and no play ')
    const sum = createHash('sha256').update(data).digest('hex')
    expect((await guest.exec(['sha256sum'], { stdin: data })).stdout).toContain(sum)
    await guest.writeFile('/tmp/data', data)
    const result = await guest.exec(['cat', '/tmp/data'])
    expect(createHash('sha256').update(result.stdout).digest('hex')).toBe(sum)
  })

  test('many commands at once do not mix', async () => {
    const results = await Promise.all(
      Array.from({ length: 12 }, (_, index) =>
        guest.exec(['sh', '-c', `sleep 0.2; echo ${index}; exit ${index}`]),
      ),
    )
    expect(results.map(({ status, stdout }) => [status, stdout])).toEqual(
      Array.from({ length: 12 }, (_, index) => [index, `${index}\n`]),
    )
  })

  test('a pty has a size, and Ctrl-C interrupts', async () => {
    let seen = ''
    const process = await guest.spawn(['sh', '-c', 'stty size; sleep 60'], {
      pty: { rows: 33, columns: 101 },
      stdin: true,
      onStdout: (data) => {
        seen += Buffer.from(data).toString()
      },
    })
    await expect.poll(() => seen, { timeout: 10_000 }).toContain('33 101')
    await process.writeStdin('\x03')
    expect(await process.exited).toMatchObject({ signal: 'SIGINT' })
  })

  test('a named port carries bytes both ways', async () => {
    const port = guest.port('test.data')
    const reading = guest.exec([
      'sh',
      '-c',
      'exec 3<>/dev/virtio-ports/test.data; read line <&3; echo "$line back" >&3',
    ])
    await port.whenOpen()
    await port.write('there and\n')
    const { value } = await port[Symbol.asyncIterator]().next()
    expect(Buffer.from(value!).toString()).toBe('there and back\n')
    expect(await reading).toMatchObject({ status: 0, stderr: '' })
    await port.whenOpen(false)
  })

  test('a port that nobody reads holds its writer back, and loses nothing', async () => {
    const port = guest.port('test.more')
    const sum = createHash('sha256')
      .update(Buffer.alloc(2 * 1024 * 1024))
      .digest('hex')
    let written = false
    const writing = guest
      .exec(['dd', 'if=/dev/zero', 'of=/dev/virtio-ports/test.more', 'bs=4096', 'count=512'])
      .then((result) => {
        written = true
        return result
      })
    await sleep(1500)
    expect(written).toBe(false)
    const hash = createHash('sha256')
    let length = 0
    for await (const data of port) {
      hash.update(data)
      length += data.byteLength
      if (length >= 2 * 1024 * 1024) break
    }
    expect(await writing).toMatchObject({ status: 0 })
    expect([length, hash.digest('hex')]).toEqual([2 * 1024 * 1024, sum])
  })

  test('runs a script and settles its points live', async () => {
    const names: string[] = []
    const result = await guest.run(
      `
      . /lib/kvitest/tap.sh
      is "the environment is there" "$KVITEST_CPUS $KVITEST_MEMORY" "1 268435456"
      point "the generator gives" sh -c 'head -c 32 /dev/hwrng >/dev/null'
      done_testing`,
      { onPoint: (point) => names.push(`${point.result} ${point.name}`) },
    )
    expect(names).toEqual(['pass the environment is there', 'pass the generator gives'])
    expect(result).toMatchObject({ status: 0, tap: { plan: 2, problems: [] } })
  })

  test('a script that needs an interpreter the guest lacks says which', async () => {
    await expect(guest.run(fixture('missing-interpreter'))).rejects.toThrow(
      /^run missing-interpreter.tap.sh: the guest has no interpreter \//,
    )
  })

  test('tells what its vCPUs do', async () => {
    const [vcpu] = await guest.inspect()
    expect(vcpu!.registers.rip).toMatch(/^(0x)?[0-9a-f]+$/)
  })

  test('has no word of a command on its console', () => {
    expect(guest.console.text()).not.toContain('back')
  })

  test('powers off when asked, with one verdict', async () => {
    const end = await guest.stop()
    expect(end).toMatchObject({ verdict: 'pass', reason: '2 points ok', machine: { reason: 'poweroff' } })
  })
})

test('four guests live at a time, and each ends in its own way', async () => {
  const endings = [
    ['panics-after-success', 'panic', /^Kernel panic - not syncing: sysrq triggered crash$/],
    ['powers-off', 'fail', /^the guest powered off while a script or command ran$/],
    ['reboots', 'fail', /^the guest reset itself while a script or command ran$/],
    ['triple-faults', 'fail', /^the guest triple-faulted while a script or command ran$/],
  ] as const
  const guests = await Promise.all(endings.map(([name]) => host.fork({ name, memory: '128M' })))
  const ids = await Promise.all(guests.map((guest) => guest.exec(['cat', '/proc/sys/kernel/random/boot_id'])))
  const errors = await Promise.all(
    guests.map((guest) => guest.run(fixture(guest.name), { timeout: 60_000 }).catch((error) => error)),
  )
  const ends = await Promise.all(guests.map((guest) => guest.ended))

  expect(new Set(ids.map(({ stdout }) => stdout)).size).toBe(4)
  expect(ends).toMatchObject(
    endings.map(([, verdict, reason]) => ({ verdict, reason: expect.stringMatching(reason) })),
  )
  expect(errors.map((error) => error instanceof GuestError && error.end)).toEqual(ends)
})

test('a splat in the kernel log makes an oops of a script that says ok', async () => {
  const guest = await host.fork({ name: 'splat' })
  const result = await guest.run(fixture('splat-in-kernel-log'))
  const end = await guest.stop()
  expect(result).toMatchObject({ status: 0, tap: { problems: [] } })
  expect(end).toMatchObject({ verdict: 'oops', reason: expect.stringMatching(/^WARNING: CPU: 0 PID: 1 at /) })
  expect(end.evidence[0]).toContain('splat_fixture+0x1/0x2')
})

test('words, a daemon and the OOM killer harm neither script nor agent', async () => {
  const guest = await host.fork({ name: 'harmless' })
  for (const name of ['fake-panic-on-stdout', 'leaves-a-daemon', 'runs-out-of-memory']) {
    expect(await guest.run(fixture(name))).toMatchObject({ status: 0, tap: { problems: [] } })
  }
  expect(await guest.stop()).toMatchObject({ verdict: 'pass', reason: '5 points ok' })
})

test('a busy script is over its time, a guest that stops answering hangs', async () => {
  const guest = await host.fork({ name: 'hang', idleLimit: 5000 })
  const late = await guest.run(fixture('hangs-without-output'), { timeout: 1500 })
  // The agent itself is frozen: the guest lives, and nobody in it answers.
  const ice = '/sys/fs/cgroup/ice'
  const freeze = `mkdir ${ice} && echo 1 >${ice}/cgroup.procs && echo 1 >${ice}/cgroup.freeze; sleep 600`
  const error = await guest.exec(['sh', '-c', freeze]).catch((caught) => caught)
  expect(late).toMatchObject({ timedOut: true, status: null })
  expect(error.end).toMatchObject({
    verdict: 'hang',
    reason: expect.stringMatching(/^no progress for \d+(\.\d+)? s while a script or command ran; vCPU 0 /),
  })
})

test('a kernel without init is a panic while it boots', async () => {
  const error = await host.boot({ name: 'no-init', cmdline: 'rdinit=/none' }).catch((caught) => caught)
  expect(error).toBeInstanceOf(GuestError)
  expect(error.end).toMatchObject({
    verdict: 'panic',
    reason: expect.stringMatching(/Unable to mount root fs/),
  })
})

test('a guest that does not boot in time is a boot-fail', async () => {
  const error = await host.boot({ name: 'slow', bootTimeout: 700 }).catch((caught) => caught)
  expect(error.end).toMatchObject({
    verdict: 'boot-fail',
    reason: expect.stringMatching(/^no greeting of the agent within 0.7 s/),
  })
})

test('files of this machine reach the guest with their modes, and the console shows the whole kernel log', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'kvitest-guest-'))
  writeFileSync(join(folder, 'tool'), '#!/bin/sh\necho from the host\n', { mode: 0o755 })
  await using guest = await host.boot({
    name: 'files',
    loglevel: 7,
    files: { '/opt/tool': join(folder, 'tool') },
  })
  rmSync(folder, { recursive: true })
  expect(await guest.exec(['/opt/tool'])).toMatchObject({ status: 0, stdout: 'from the host\n' })
  expect(await guest.console.waitFor(/Linux version/, 1000)).toContain(guest.kernelRelease)
})
