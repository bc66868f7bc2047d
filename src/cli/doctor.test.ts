import { execFile, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, onTestFinished, test } from 'vitest'
import { BudgetClient } from '../budget/client.ts'
import { MeetingPlace } from '../budget/meeting-place.ts'

const kvitest = join(import.meta.dirname, '../../scripts/kvitest')

function doctor(argv: string[], options: { prefix?: string[]; path?: string } = {}) {
  const [program, ...rest] = [...(options.prefix ?? []), kvitest, 'doctor', ...argv]
  const env = { ...process.env, PATH: options.path ?? process.env.PATH }
  const { status, stdout, stderr } = spawnSync(program!, rest, { encoding: 'utf8', env })
  return { status, stdout, stderr }
}

/** A PATH with these commands of this machine and nothing else. */
function pathWith(commands: string[]): string {
  const directory = mkdtempSync(join(tmpdir(), 'kvitest-path-'))
  onTestFinished(() => rmSync(directory, { recursive: true }))
  for (const command of commands) {
    const { stdout } = spawnSync('sh', ['-c', 'command -v "$0"', command], { encoding: 'utf8' })
    symlinkSync(stdout.trim(), join(directory, command))
  }
  return directory
}

test('where the main job can run, the status is 0 and both kinds of guest have a host and a reason', () => {
  const { status, stdout } = doctor(['--json'])

  expect(JSON.parse(stdout)).toMatchObject({
    cpus: expect.any(Number),
    qemu: expect.stringContaining('QEMU emulator version'),
    linuxGuests: {
      host: expect.stringMatching(/^(local|lab:debian:6\.12-cloud)$/),
      reason: expect.stringMatching(/\w/),
    },
    bareGuests: {
      host: expect.stringMatching(/^(local|lab:debian:6\.12-cloud)$/),
      reason: expect.stringMatching(/\w/),
    },
    problems: [],
  })
  expect(status).toBe(0)
})

test('the same for people', () => {
  const { status, stdout } = doctor([])

  expect(stdout).toMatch(/^Linux guests {2}(local|lab:debian:6\.12-cloud): \S/m)
  expect(stdout).toMatch(/^The main job can run here\.$/m)
  expect(status).toBe(0)
})

test('the budget, what it was measured from, and who holds leases', async () => {
  const runtime = mkdtempSync(join(tmpdir(), 'kvitest-runtime-'))
  onTestFinished(() => rmSync(runtime, { recursive: true }))
  // Not spawnSync(): this process keeps the budget.
  const doctorHere = async () => {
    const env = { ...process.env, XDG_RUNTIME_DIR: runtime, KVITEST_BUDGET_MEMORY: '3G' }
    return (await promisify(execFile)(kvitest, ['doctor'], { env })).stdout
  }
  const free = await doctorHere()
  expect(free).toMatch(/^budget +\d+ vCPUs of guests: 16 for each of \d+ CPUs? by \S/m)
  expect(free).toMatch(/^ +3\.0 GiB of guests: KVITEST_BUDGET_MEMORY$/m)
  expect(free).toMatch(/^leases +none: no guest runs$/m)

  const place = new MeetingPlace(join(runtime, 'kvitest'))
  const client = new BudgetClient({ place, limits: { cpus: 2, memory: 2 ** 30 } })
  onTestFinished(() => client.close())
  const lease = await client.lease({ guest: 'first', cpus: 2, memory: 2 ** 29, holder: { id: 'a' } })
  lease.started()
  const waiting = client.lease({ guest: 'second', cpus: 1, memory: 2 ** 28, holder: { id: 'b' } })
  const held = await doctorHere()
  expect(held).toContain(`first of process ${process.pid}: 2 vCPUs, 0.5 GiB, running\n`)
  expect(held).toContain(`second of process ${process.pid}: 1 vCPU, 0.3 GiB, waiting\n`)
  lease.end()
  ;(await waiting).end()
})

test('without QEMU and without a /dev/kvm it says what to install, with status 1', () => {
  const path = pathWith([
    'node',
    'sh',
    'readlink',
    'apt-config',
    'apt-cache',
    'apt-get',
    'flock',
    'mount',
    'unshare',
  ])
  const hidden = ['unshare', '-rm', 'sh', '-c', 'mount -t tmpfs none /dev && exec "$@"', 'sh']

  const { status, stdout } = doctor([], { path, prefix: hidden })

  expect(stdout).toMatch(/^kvm +no \/dev\/kvm$/m)
  expect(stdout).toMatch(/^Linux guests {2}lab:debian:6\.12-cloud: no usable \/dev\/kvm on this machine/m)
  expect(stdout).toMatch(/^problem +labs need QEMU, which is missing: install the package qemu-system-x86/m)
  expect(stdout).toMatch(/^The main job cannot run here\.$/m)
  expect(status).toBe(1)
})

test('an option that is none is refused', () => {
  const { status, stderr } = doctor(['--jason'])
  expect(stderr).toMatch(/^kvitest: .*--jason/)
  expect(status).toBe(2)
})
