import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { GuestRecord } from '../guest/record.ts'
import { pathPart, writeArtifacts } from './guest-artifacts.ts'

let folder: string

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvitest-artifacts-'))
})

afterAll(() => rmSync(folder, { recursive: true }))

const record: GuestRecord = {
  name: 'g',
  kernel: { name: 'debian:6.12-cloud', release: '6.12.1', image: '/boot/vmlinuz', hash: 'abc' },
  host: {
    name: 'lab:debian:6.12-cloud',
    kernelRelease: '6.12.1',
    accelerator: 'tcg',
    cpus: 1,
    memory: 1,
    kvm: { apiVersion: 12, maxVcpus: 1 },
  },
  spec: {
    name: 'g',
    cpus: 1,
    memory: 2 ** 28,
    payload: { kind: 'linux', kernel: '/k', initramfs: '/i', cmdline: 'console=ttyS0 panic=-1' },
    devices: [],
  },
  hashes: { kernel: 'k', initramfs: 'i' },
  console: '      123  [    0.1] line\n',
  agent: '',
  scripts: [
    { name: 'a', stdout: '1..0\n', stderr: '' },
    { name: 'b', stdout: 'ok 1\n', stderr: 'x\n' },
  ],
  dmesg: 'all\n',
  vcpus: [],
}
const splat = '[    1.0000000] BUG: soft lockup'.replace('0000000', '000000')
const end = {
  verdict: 'hang' as const,
  reason: 'no progress',
  evidence: [splat, `asked the kernel (x):\n${splat.replace('soft lockup', 'asked for')}`],
}
const rerun = 'npx vitest run x.tap.sh'

test('each file says what its name says; scripts are counted', async () => {
  const directory = join(folder, 'deep', 'down')
  const files = await writeArtifacts({ directory, record, end, rerun })
  expect(files).toEqual([
    'console.log',
    'script.tap',
    'script.stderr',
    'script-2.tap',
    'script-2.stderr',
    'dmesg.log',
    'agent.log',
    'machine.json',
    'vcpus.json',
    'verdict.json',
  ])
  const read = (name: string) => readFileSync(join(directory, name), 'utf8')
  expect(read('script-2.stderr')).toBe('x\n')
  expect(JSON.parse(read('machine.json'))).toMatchObject({
    commandLine: 'console=ttyS0 panic=-1',
    hashes: { kernel: 'k' },
    host: { name: 'lab:debian:6.12-cloud' },
  })
  const verdict = JSON.parse(read('verdict.json'))
  expect(verdict).toMatchObject({ verdict: 'hang', rerun, scripts: ['a', 'b'] })
  // What we asked for ourselves is no splat of the guest.
  expect(verdict.splats.map(({ title }: { title: string }) => title)).toEqual(['BUG: soft lockup'])
})

test('what an earlier guest left there goes', async () => {
  const directory = join(folder, 'again')
  await writeArtifacts({ directory, record, end, rerun })
  await writeArtifacts({ directory, record: { ...record, scripts: [] }, end, rerun })
  expect(() => readFileSync(join(directory, 'script.tap'))).toThrow('ENOENT')
})

test('a full disk is one line with its errno', async () => {
  const directory = join(folder, 'full')
  const saveCore = () => writeFile('/dev/full', 'memory')
  await expect(writeArtifacts({ directory, record, end, rerun, saveCore })).rejects.toMatchObject({
    message: `write artifacts: ${directory}: no space left on device (ENOSPC)`,
    code: 'ENOSPC',
  })
})

test('so is a place that is no directory', async () => {
  writeFileSync(join(folder, 'file'), '')
  const directory = join(folder, 'file', 'guest')
  await expect(writeArtifacts({ directory, record, end, rerun })).rejects.toMatchObject({
    message: `write artifacts: ${directory}: not a directory (ENOTDIR)`,
  })
})

test.for([
  ['virtio (debian:6.1-cloud)', 'virtio-debian-6.1-cloud'],
  ['cpus=2 memory=512M', 'cpus=2-memory=512M'],
  ['../../etc', 'etc'],
  ['..', 'guest'],
  ['', 'guest'],
  ['it\'s "odd" $x/y', 'it-s-odd-x-y'],
])('%j is %j in a path', ([name, part]) => {
  expect(pathPart(name!)).toBe(part)
})
