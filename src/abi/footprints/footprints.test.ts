import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished, test } from 'vitest'
import { footprintDirectory, namesOf, readFootprints, toolsByKey } from './footprints.ts'
import { footprintOfSources } from './sources.ts'
import { footprintOfTrace } from './trace.ts'

const root = fileURLToPath(new URL('../../../', import.meta.url))

test('the footprint of our own VMM is what its sources name; -u accepts what is new', async () => {
  const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { version: string }
  // Raw access passes on what others ask for, and the agent and the fuzzers are other programs.
  const isLeftOut = (path: string) => /^(agent|fuzz|kvm\/raw)\//.test(path)

  const footprint = await footprintOfSources(
    join(root, 'native'),
    { tool: 'kvitest VMM', version },
    isLeftOut,
  )

  expect(footprint.uses).toContain('KVM_CREATE_VM')
  await expect(`${JSON.stringify(footprint, null, 2)}\n`).toMatchFileSnapshot(
    join(footprintDirectory, 'kvitest-vmm.json'),
  )
})

/** Lines of a trace of QEMU 7.2. */
const trace = `28061 ioctl(3, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) = 1
28061 ioctl(3, KVM_CREATE_VM, 0) = 8
28061 ioctl(8, KVM_ENABLE_CAP, 0x7ffced2d5370) = 0
28061 ioctl(8, KVM_SET_USER_MEMORY_REGION, {slot=0, flags=KVM_MEM_READONLY} <unfinished ...>
28063 ioctl(11, KVM_RUN, 0 <unfinished ...>
28063 <... ioctl resumed>) = 0 (KVM_EXIT_IO)
28063 ioctl(11, KVM_ARM_VCPU_INIT or KVM_X86_SETUP_MCE, 0) = 0
28063 write(1, "KVM_NMI", 7) = 7
`

test('the footprint of a tool is what its trace names', async () => {
  const place = await mkdtemp(join(tmpdir(), 'kvitest-footprints-'))
  onTestFinished(() => rm(place, { recursive: true, force: true }))
  const path = join(place, 'trace')
  await writeFile(path, trace)

  expect(await footprintOfTrace(path, { tool: 'QEMU', version: '7.2' })).toEqual({
    tool: 'QEMU',
    version: '7.2',
    from: 'trace',
    uses: [
      'KVM_CAP_USER_MEMORY',
      'KVM_CHECK_EXTENSION',
      'KVM_CREATE_VM',
      'KVM_ENABLE_CAP',
      'KVM_EXIT_IO',
      'KVM_RUN',
      'KVM_SET_USER_MEMORY_REGION',
      'KVM_X86_SETUP_MCE',
    ],
  })
  await writeFile(path, trace.replace('KVM_CREATE_VM', '0xae01'))
  await expect(footprintOfTrace(path, { tool: 'QEMU', version: '7.2' })).rejects.toThrow(
    `${path}: nothing in it makes a VM; give what strace -f --kvm=vcpu -e trace=ioctl -o FILE wrote`,
  )
})

test('a key is used by the tools that use what it is about', async () => {
  const tools = toolsByKey([
    { tool: 'one', version: '1', from: 'trace', uses: ['KVM_ENABLE_CAP', 'KVM_GET_SUPPORTED_CPUID'] },
    { tool: 'two', version: '2', from: 'trace', uses: ['KVM_CAP_X86_DISABLE_EXITS', 'MSR_TSC'] },
  ])

  expect(tools('cpuid.supported.0x1.eax')).toEqual(['one 1'])
  expect(tools('ioctl.KVM_ENABLE_CAP.vm.zero')).toEqual(['one 1'])
  expect(tools('flags.KVM_ENABLE_CAP.KVM_CAP_X86_DISABLE_EXITS')).toEqual(['two 2'])
  expect(tools('msr.index.MSR_TSC')).toEqual(['two 2'])
  expect(tools('exit.io_out')).toEqual([])
  expect(namesOf('exit.io_out')).toEqual(['KVM_RUN'])
})

test('a footprint that is none is named', async () => {
  const place = await mkdtemp(join(tmpdir(), 'kvitest-footprints-'))
  onTestFinished(() => rm(place, { recursive: true, force: true }))
  const path = join(place, 'a.json')

  expect(await readFootprints(place)).toEqual([])
  expect(await readFootprints(join(place, 'absent'))).toEqual([])
  for (const text of ['{"tool": "x"}', '{', 'null']) {
    await writeFile(path, text)
    await expect(readFootprints(place)).rejects.toMatchObject({
      code: 'EILSEQ',
      message: `read the footprints: ${path}: not a footprint; it has tool, version, from (sources or trace) and uses (a list of names)`,
    })
  }
})
