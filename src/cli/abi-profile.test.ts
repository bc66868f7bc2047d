import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, onTestFinished, test, vi } from 'vitest'
import { type Profile, writeProfile } from '../abi/profile/profile.ts'
import { profileOf } from '../abi/profile/testing/profile-of.ts'
import { whyNoKvm } from '../native/testing/bare-guest.ts'
import { abi } from './abi.ts'

let said: string[]

beforeEach(() => {
  said = []
  vi.spyOn(console, 'log').mockImplementation((line: string) => void said.push(line))
})

afterEach(() => vi.restoreAllMocks())

async function place(): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'kvitest-abi-'))
  onTestFinished(() => rm(path, { recursive: true, force: true }))
  return path
}

/** Files of profiles with these parts. */
async function files(...parts: Partial<Profile>[]): Promise<string[]> {
  const directory = await place()
  return Promise.all(
    parts.map(async (part, i) => {
      const path = join(directory, `${i}.json`)
      await writeProfile(path, profileOf(part))
      return path
    }),
  )
}

test('the exit status of a comparison of profiles is by class', async () => {
  const [old, less, tighter, more] = await files(
    { abi: { 'cap.KVM_CAP_ONE.sys': 1, 'ioctl.KVM_CREATE_PIT2.vm.zero': 0 } },
    { abi: { 'cap.KVM_CAP_ONE.sys': 0, 'ioctl.KVM_CREATE_PIT2.vm.zero': 0 } },
    { abi: { 'cap.KVM_CAP_ONE.sys': 1, 'ioctl.KVM_CREATE_PIT2.vm.zero': 'ENOENT' } },
    { abi: { 'cap.KVM_CAP_ONE.sys': 1, 'cap.KVM_CAP_TWO.sys': 1, 'ioctl.KVM_CREATE_PIT2.vm.zero': 0 } },
  )

  expect(await abi(['diff', old!, old!])).toBe(0)
  expect(said).toEqual(['0 breaking, 0 tightened, 0 additive, 0 environment, 0 info'])
  expect(await abi(['diff', old!, less!])).toBe(1)
  expect(await abi(['diff', '--fail-on', 'never', old!, less!])).toBe(0)
  expect(await abi(['diff', old!, tighter!])).toBe(0)
  expect(await abi(['diff', '--fail-on', 'tightened', old!, tighter!])).toBe(1)
  expect(await abi(['diff', '--fail-on', 'tightened', old!, more!])).toBe(0)
  expect(await abi(['diff', '--fail-on', 'additive', old!, more!])).toBe(1)
})

test('a difference as JSON and as Markdown, with the tools that use it', async () => {
  const [before, after] = await files(
    { abi: { 'ioctl.KVM_GET_REGS.vcpu.zero': 0 } },
    { abi: { 'ioctl.KVM_GET_REGS.vcpu.zero': 'EINVAL' } },
  )

  await abi(['diff', '--format', 'json', before!, after!])
  expect(JSON.parse(said.join('\n'))).toMatchObject({
    profiles: [before, after],
    counts: { tightened: 1 },
    changes: [
      {
        key: 'ioctl.KVM_GET_REGS.vcpu.zero',
        before: 0,
        after: 'EINVAL',
        class: 'tightened',
        tools: [expect.stringMatching(/^kvitest VMM /), expect.stringMatching(/^QEMU /)],
      },
    ],
  })
  said = []
  await abi(['diff', '--format', 'markdown', before!, after!])
  expect(said).toContain('### tightened: 1')
})

test('three profiles say which factor explains a difference', async () => {
  const one = { environment: { 'kernel.release': '6.1', 'memory.MiB': 1 }, abi: { 'cap.KVM_CAP_ONE.sys': 1 } }
  const paths = await files(
    one,
    { ...one, environment: { ...one.environment, 'memory.MiB': 2 } },
    { environment: { ...one.environment, 'kernel.release': '6.12' }, abi: { 'cap.KVM_CAP_ONE.sys': 2 } },
  )

  await abi(['diff', ...paths])

  expect(said[1]).toBe('  cap.KVM_CAP_ONE.sys: 1 -> 2 (a limit is higher; explained by: kernel)')
})

test('wrong arguments of diff and dump are named', async () => {
  const [one] = await files({})

  await expect(abi(['diff', one!])).rejects.toThrow('kvitest abi diff: 1 profiles; give two or more')
  await expect(abi(['diff', '--format', 'xml', one!, one!])).rejects.toThrow('--format xml; give human, json')
  await expect(abi(['diff', '--fail-on', 'info', one!, one!])).rejects.toThrow('give breaking, tightened')
  await expect(abi(['diff', one!, '/nowhere.json'])).rejects.toThrow(
    'read the profile: /nowhere.json: ENOENT',
  )
})

test('a dump of no host, or to no file, leaves nothing', async () => {
  const directory = await place()

  await expect(abi(['dump', '--host', 'mars', '-o', join(directory, 'p.json')])).rejects.toThrow(
    'open the host: mars: no such host',
  )
  await expect(abi(['dump', '--host', 'local', '-o', directory])).rejects.toThrow(
    `write the profile: ${directory}: EISDIR; give a file`,
  )
  await expect(abi(['dump', '-o', join(directory, 'absent/p.json')])).rejects.toThrow(
    'ENOENT; give a file in a directory that is there',
  )
  expect(await readdir(directory)).toEqual([])
})

const reason = whyNoKvm()

test.skipIf(reason)(
  `a dump of this machine is a file that diff reads${reason ? ` (skipped: ${reason})` : ''}`,
  async () => {
    const path = join(await place(), 'p.json')

    expect(await abi(['dump', '--host', 'local', '-o', path])).toBe(0)

    expect(said[0]).toMatch(/^\/\S+: local, \d+ keys of KVM, \d+ of the machine, \d+ volatile$/)
    expect(await readFile(path, 'utf8')).toContain('"cap.KVM_CAP_USER_MEMORY.sys": 1,\n')
    expect(await abi(['diff', path, path])).toBe(0)
  },
)
