import { readFile } from 'node:fs/promises'
import { defaultKernel } from '../image/resolve.ts'
import { KvitestError } from '../native/error.ts'
import { canRunLinux } from './calibrate.ts'
import type { LabAccelerator } from './lab/qemu.ts'
import { LocalHost } from './local.ts'

/** What the guests will be: any /dev/kvm runs bare guests, Linux needs a ring 0 at hardware speed. */
export type GuestKind = 'linux' | 'bare'

/** Where guests of one kind will run, and why. */
export interface Decision {
  host: 'local' | `lab:${string}`
  reason: string
}

export interface LocalFindings {
  host?: LocalHost
  error?: KvitestError
}

/** Asks this machine's own /dev/kvm. */
export async function findLocal(): Promise<LocalFindings> {
  try {
    return { host: await LocalHost.open() }
  } catch (error) {
    if (error instanceof KvitestError) return { error }
    throw error
  }
}

/** Chooses by what was measured. */
export function decide(guests: GuestKind, local: LocalFindings): Decision {
  const lab = `lab:${defaultKernel}` as const
  if (!local.host)
    return { host: lab, reason: `no usable /dev/kvm on this machine (${local.error?.message})` }
  if (guests === 'bare') return { host: 'local', reason: 'bare guests run on every /dev/kvm' }
  const { yes, reason } = canRunLinux(local.host.calibration)
  return { host: yes ? 'local' : lab, reason }
}

/** KVM that nests, as the loaded module says; only ever used when the hardware was measured to be there. */
export async function nestingEnabled(): Promise<boolean> {
  for (const module of ['kvm_amd', 'kvm_intel']) {
    const value = await readFile(`/sys/module/${module}/parameters/nested`, 'utf8').catch(() => '')
    if (/^[Y1]/.test(value)) return true
  }
  return false
}

/** How labs run here: by nested KVM when the module nests and ring 0 was measured at hardware speed, else by TCG. */
export async function chooseAccelerator(): Promise<LabAccelerator> {
  if (!(await nestingEnabled())) return 'tcg'
  const local = await findLocal()
  const isHardware = local.host !== undefined && canRunLinux(local.host.calibration).yes
  await local.host?.close()
  return isHardware ? 'nested' : 'tcg'
}
