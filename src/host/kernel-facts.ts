/** What of a host's kernel and CPU its KVM depends on, as the host itself says. Runs in a lab too. */
import { readdir, readFile } from 'node:fs/promises'
import { availableParallelism, totalmem, version } from 'node:os'
import { promisify } from 'node:util'
import { gunzip } from 'node:zlib'

export interface KernelFacts {
  /** uname -v: build number, date, Debian's package version. */
  kernelVersion: string
  /** Of the first CPU: `vendor_id`, `cpu family`, `model`, `model name`, `stepping` of /proc/cpuinfo. */
  cpu: Record<string, string>
  cpus: number
  /** Bytes of RAM that the kernel manages. */
  memory: number
  /** Parameters of the modules kvm, kvm_amd, kvm_intel, kvm_...: `kvm_amd.npt`. */
  parameters: Record<string, string>
  /** Its .config, where the host has it. */
  config?: string
}

const cpuFields = ['vendor_id', 'cpu family', 'model', 'model name', 'stepping'] as const

async function moduleParameters(): Promise<Record<string, string>> {
  const modules = (await readdir('/sys/module')).filter((name) => /^kvm(_|$)/.test(name)).sort()
  const parameters: Record<string, string> = {}
  for (const module of modules) {
    const directory = `/sys/module/${module}/parameters`
    for (const name of (await readdir(directory).catch(() => [])).sort()) {
      // Some are for writing only.
      const value = await readFile(`${directory}/${name}`, 'utf8').catch(() => undefined)
      if (value !== undefined) parameters[`${module}.${name}`] = value.trim()
    }
  }
  return parameters
}

async function runningConfig(release: string): Promise<string | undefined> {
  const embedded = await readFile('/proc/config.gz').catch(() => undefined)
  if (embedded) return (await promisify(gunzip)(embedded)).toString()
  for (const path of [`/boot/config-${release}`, `/lib/modules/${release}/config`]) {
    const text = await readFile(path, 'utf8').catch(() => undefined)
    if (text !== undefined) return text
  }
  return undefined
}

/** Of the kernel that runs this process. */
export async function readKernelFacts(release: string): Promise<KernelFacts> {
  const text = await readFile('/proc/cpuinfo', 'utf8')
  const config = await runningConfig(release)
  return {
    kernelVersion: version(),
    cpu: Object.fromEntries(
      cpuFields.map((name) => [name, new RegExp(`^${name}\\s*: (.*)$`, 'm').exec(text)?.[1] ?? '']),
    ),
    cpus: availableParallelism(),
    memory: totalmem(),
    parameters: await moduleParameters(),
    ...(config === undefined ? {} : { config }),
  }
}
