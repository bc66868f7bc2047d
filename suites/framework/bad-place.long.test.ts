/**
 * Machines that lack something: each is one clear line with what to do next. The lack is real, made with mount and
 * network namespaces, which needs root.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { startMarked } from './marked-process.ts'

const kvitest = 'scripts/kvitest'
const isRoot = process.getuid?.() === 0

/** Runs `command` in a new mount namespace after `setup`, which may change what is mounted where. */
function inPlace(setup: string, command: string[], env: NodeJS.ProcessEnv = {}) {
  return startMarked(['unshare', '-m', 'sh', '-ec', `${setup}; exec "$@"`, 'sh', ...command], {
    env,
    input: '',
    ownLabs: true,
  })
}

const noKvm =
  'mount -t tmpfs none /mnt; for n in null zero full random urandom tty ptmx; do touch /mnt/$n; mount --bind /dev/$n /mnt/$n; done; ln -s /proc/self/fd /mnt/fd; mkdir /mnt/shm /mnt/pts; mount -t tmpfs none /mnt/shm; mount --rbind /dev/pts /mnt/pts; mount --move /mnt /dev'

/** A machine that has everything but QEMU. */
const noQemu = 'mount --bind /dev/null /usr/bin/qemu-system-x86_64'

let cache: string

beforeEach(async () => {
  cache = await mkdtemp(join(tmpdir(), 'kvitest-place-'))
})

afterEach(async () => {
  await rm(cache, { recursive: true, force: true })
})

async function refusal(run: ReturnType<typeof startMarked>) {
  const result = await run.finished
  expect(await run.survivors()).toEqual([])
  expect(result.stderr).not.toMatch(/^\s+at /m)
  const lines = result.stderr.trim().split('\n')
  return { status: result.status, stdout: result.stdout, said: result.stderr, last: lines.at(-1) }
}

describe.skipIf(!isRoot)('with what root can take away', () => {
  test('without /dev/kvm Linux guests run in a lab', async () => {
    const result = await inPlace(noKvm, [kvitest, 'run', '--', 'echo', 'alive']).finished
    expect(result.stdout).toBe('alive\n')
    expect(result.status).toBe(0)
  })

  test('without /dev/kvm the host `local` says so', async () => {
    const got = await refusal(inPlace(noKvm, [kvitest, 'run', '--host', 'local', '--', 'true']))
    expect(got.status).toBe(125)
    expect(got.last).toMatch(/^kvitest: .*\/dev\/kvm.*(ENOENT|No such file).*;/)
  })

  test('without permission on /dev/kvm the host `local` says so', async () => {
    const unprivileged = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups']
    const command = [...unprivileged, kvitest, 'run', '--host', 'local', '--', 'true']
    const got = await refusal(
      startMarked(command, { env: { XDG_CACHE_HOME: cache, HOME: cache }, input: '' }),
    )
    expect(got.status).toBe(125)
    expect(got.last).toMatch(/^kvitest: .*\/dev\/kvm.*(EACCES|[Pp]ermission denied).*;/)
  })

  test('without QEMU a lab cannot start, and doctor and run say what to install', async () => {
    const doctor = await inPlace(noQemu, [kvitest, 'doctor']).finished
    expect(doctor.status).toBe(1)
    expect(doctor.stdout).toMatch(/problem\s+.*qemu-system-x86/)
    const got = await refusal(inPlace(noQemu, [kvitest, 'run', '--host', 'lab', '--', 'true']))
    expect(got.status).toBe(125)
    expect(got.last).toMatch(/^kvitest: .*qemu-system-x86/)
  })

  test('a read-only cache directory is named', async () => {
    const got = await refusal(
      inPlace(`mount -t tmpfs -o ro none ${cache}`, [kvitest, 'run', '--', 'true'], {
        XDG_CACHE_HOME: cache,
      }),
    )
    expect(got.status).toBe(125)
    expect(got.last).toMatch(/read-only.*XDG_CACHE_HOME/)
  })

  test('a full cache directory is named', async () => {
    const setup = `mount -t tmpfs -o size=1M none ${cache}`
    const got = await refusal(inPlace(setup, [kvitest, 'run', '--', 'true'], { XDG_CACHE_HOME: cache }))
    expect(got.status).toBe(125)
    expect(got.last).toMatch(/ENOSPC|[Nn]o space left/)
  })

  test('no network on the first run is said, with the kernel that was wanted', async () => {
    const command = ['unshare', '-n', kvitest, 'run', '--', 'true']
    const got = await refusal(
      startMarked(command, { env: { XDG_CACHE_HOME: cache }, input: '', ownLabs: true }),
    )
    expect(got.status).toBe(125)
    expect(got.said).toMatch(/debian:6\.12-cloud|linux-image-6\.12/)
    expect(got.last).toMatch(/connect this machine|network/)
  })

  test('without the network a cached kernel still runs', async () => {
    const result = await startMarked(['unshare', '-n', kvitest, 'run', '--', 'echo', 'alive'], {
      input: '',
      ownLabs: true,
    }).finished
    expect(result.stdout).toBe('alive\n')
  })
})

test('an initramfs larger than memory says both sizes', async () => {
  const big = join(cache, 'big')
  await startMarked(['truncate', '-s', '200M', big]).finished
  const command = [kvitest, 'run', '--memory', '128M', '--file', `/big=${big}`, '--', 'true']
  const got = await refusal(startMarked(command, { input: '' }))
  expect(got.status).toBe(125)
  expect(got.last).toMatch(/initramfs.*128 MiB/)
})
