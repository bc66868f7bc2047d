/** Takes the profile of a host. */
import { qemuVersion } from '../../host/describe.ts'
import { type HostChoice, openMachineHost } from '../../host/index.ts'
import type { MachineHost } from '../../host/machine-host.ts'
import { RawKvm } from '../../host/raw/kvm.ts'
import { readKernelConfig } from '../../image/config/read.ts'
import { textHash } from '../../image/hash.ts'
import { KvitestError } from '../../native/error.ts'
import { catalogue } from '../catalogue/catalogue.ts'
import { probeAll } from './probe.ts'
import { type Profile, profileKind, profileSchema } from './profile.ts'
import { sectionsOf } from './sections.ts'
import { type Entries, ProbeSession } from './session.ts'

/** Lines of a kernel's configuration that a profile has by themselves; of the rest it has a hash. */
const shownOptions = /KVM|VIRTIO|MITIGATION|^RETPOLINE|^X86_SGX$|^X86_X2APIC$|^PREEMPT|^NR_CPUS$|^HZ$/

/** RAM is told in steps, because what a kernel takes for itself varies. */
const memoryStep = 64 << 20

/** The configuration of the running kernel; for a lab perhaps what is inside the kernel's image. */
async function configOf(name: string, text: string | undefined): Promise<Entries> {
  let values: Map<string, string> | undefined
  if (text === undefined && name.startsWith('lab:')) {
    values = await readKernelConfig(name.slice('lab:'.length)).then(
      (found) => found.config.values,
      () => undefined,
    )
  }
  const lines =
    text === undefined
      ? [...(values ?? [])].map(([symbol, value]) => `CONFIG_${symbol}=${value}`)
      : text.split('\n').filter((line) => line.startsWith('CONFIG_'))
  if (lines.length === 0) return { 'config.hash': 'unknown' }
  const entries: Entries = { 'config.hash': textHash(lines.join('\n')) }
  for (const line of lines) {
    const [, symbol, value] = /^CONFIG_(\w+)=(.*)$/.exec(line) ?? []
    if (symbol !== undefined && shownOptions.test(symbol)) entries[`config.CONFIG_${symbol}`] = value!
  }
  return entries
}

async function environmentOf(host: MachineHost): Promise<Entries> {
  const { info } = host
  const facts = await host.kernelFacts()
  const isLab = info.name.startsWith('lab:')
  const qemu = isLab ? /version (\S+)/.exec((await qemuVersion()) ?? '')?.[1] : undefined
  const modules = Object.keys(facts.parameters).map((name) => name.split('.', 1)[0]!)
  const entries: Entries = {
    host: info.name,
    accelerator: info.accelerator,
    // The module that is neither kvm itself nor beside it: kvm_amd, kvm_intel, kvm_pvm.
    backend: [...new Set(modules)].filter((name) => name !== 'kvm').join(' ') || 'built in',
    'kernel.release': info.kernelRelease,
    'kernel.version': facts.kernelVersion,
    'smp.cpus': facts.cpus,
    'memory.MiB': (Math.ceil(facts.memory / memoryStep) * memoryStep) / 2 ** 20,
    ...(qemu === undefined ? {} : { qemu }),
    'catalogue.versions': catalogue.versions.join(' '),
  }
  for (const [name, value] of Object.entries(facts.cpu)) entries[`cpu.${name.replaceAll(' ', '_')}`] = value
  for (const [name, value] of Object.entries(facts.parameters)) entries[`parameter.${name}`] = value
  return { ...entries, ...(await configOf(info.name, facts.config)) }
}

/** The profile of an open host. Probes twice, to see what does not keep still. */
export async function dumpProfile(host: MachineHost): Promise<Profile> {
  const kvm = new RawKvm(await host.openRaw())
  try {
    const session = await ProbeSession.open(kvm)
    const first = await probeAll(session)
    const second = await probeAll(session)
    const environment = await environmentOf(host)
    return { kind: profileKind, schema: profileSchema, environment, ...sectionsOf(first, second) }
  } finally {
    await kvm.end()
  }
}

/** Opens a host by name, which says what is wrong with the name, the kernel or /dev/kvm, and takes its profile. */
export async function dumpHost(name: string): Promise<Profile> {
  if (name === 'auto') {
    throw new KvitestError('dump the profile', 'auto: a profile is of one host', {
      code: 'EINVAL',
      hint: 'use local or lab:KERNEL such as lab:debian:6.1-cloud',
      infra: false,
    })
  }
  await using host = await openMachineHost(name as HostChoice)
  return await dumpProfile(host)
}
