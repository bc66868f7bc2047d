import { access, constants } from 'node:fs/promises'
import { availableParallelism, release } from 'node:os'
import { type ExplainedCapacity, explainCapacity, memoryAvailable } from '../budget/capacity.ts'
import { listLeases } from '../budget/listing.ts'
import type { ListedLease } from '../budget/messages.ts'
import { runCommand } from '../image/command.ts'
import { cachedKernels, type KernelPackage } from '../image/debian.ts'
import { loadAddon } from '../native/addon.ts'
import type { KvmProbe } from '../native/contract.ts'
import { type Calibration, canRunLinux } from './calibrate.ts'
import { type Decision, decide, findLocal, nestingEnabled } from './choose.ts'
import type { LabAccelerator } from './lab/qemu.ts'
import { type SavedLabEntry, SavedLabs } from './lab/saved-lab.ts'

/** What this machine can do, as data. */
export interface HostsReport {
  kernelRelease: string
  cpus: number
  /** Bytes. */
  memoryAvailable: number
  /** What guests may take, all together, if nobody runs with limits of his own. */
  budget: ExplainedCapacity
  /** Who has some of it now or waits for it; absent when nobody keeps the budget. */
  leases?: ListedLease[]
  kvmDevice: 'usable' | 'absent' | 'not permitted'
  kvm?: KvmProbe
  calibration?: Calibration
  /** Why the local host cannot be used at all. */
  localError?: string
  nesting: boolean
  /** What the kernel can serve devices of local guests with: `net` of `/dev/vhost-net`, where this user may open it. */
  vhost: string[]
  /** First line of `qemu-system-x86_64 --version`. */
  qemu?: string
  labAccelerator: LabAccelerator
  cachedKernels: KernelPackage[]
  /** Labs that a run could go on from, if nothing they were made from has changed. */
  savedLabs: SavedLabEntry[]
  linuxGuests: Decision
  bareGuests: Decision
  /** What stands in the way of the main job, one line each; empty when it can run. */
  problems: string[]
}

async function vhostDevices(): Promise<string[]> {
  const names = ['net', 'scsi', 'vsock']
  const usable = await Promise.allSettled(
    names.map((name) => access(`/dev/vhost-${name}`, constants.R_OK | constants.W_OK)),
  )
  return names.filter((_name, at) => usable[at]!.status === 'fulfilled')
}

async function kvmDevice(): Promise<HostsReport['kvmDevice']> {
  try {
    await access('/dev/kvm', constants.R_OK | constants.W_OK)
    return 'usable'
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'absent' : 'not permitted'
  }
}

/** First line of `qemu-system-x86_64 --version`; undefined without QEMU. */
export async function qemuVersion(): Promise<string | undefined> {
  try {
    return (await runCommand(['qemu-system-x86_64', '--version'])).stdout.toString().split('\n')[0]
  } catch {
    return undefined
  }
}

/** Looks at everything that decides where guests run; starts no lab. */
export async function describeHosts(): Promise<HostsReport> {
  const local = await findLocal()
  const linuxGuests = decide('linux', local)
  const bareGuests = decide('bare', local)
  const qemu = await qemuVersion()
  const nesting = await nestingEnabled()
  const isHardware = local.host !== undefined && canRunLinux(local.host.calibration).yes
  const problems: string[] = []
  if (linuxGuests.host !== 'local' && qemu === undefined) {
    problems.push(
      'labs need QEMU, which is missing: install the package qemu-system-x86, or run npm run setup',
    )
  }
  try {
    // Labs need it too; a missing /dev/kvm only sends guests there.
    loadAddon()
  } catch (error) {
    problems.push((error as Error).message)
  }
  const device = await kvmDevice()
  const leases = await listLeases()
  const report: HostsReport = {
    kernelRelease: release(),
    cpus: availableParallelism(),
    memoryAvailable: memoryAvailable(),
    budget: explainCapacity(),
    ...(leases ? { leases } : {}),
    kvmDevice: device,
    ...(local.host ? { kvm: local.host.info.kvm, calibration: local.host.calibration } : {}),
    ...(local.error ? { localError: local.error.message } : {}),
    nesting,
    vhost: await vhostDevices(),
    ...(qemu ? { qemu } : {}),
    labAccelerator: nesting && isHardware ? 'nested' : 'tcg',
    cachedKernels: await cachedKernels(),
    savedLabs: await new SavedLabs().list(),
    linuxGuests,
    bareGuests,
    problems,
  }
  await local.host?.close()
  return report
}
