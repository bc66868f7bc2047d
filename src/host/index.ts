import { defaultKernel } from '../image/resolve.ts'
import { KvitestError } from '../native/error.ts'
import { chooseAccelerator, decide, findLocal, type GuestKind } from './choose.ts'
import { Broker } from './lab/broker.ts'
import { LabHost } from './lab/client.ts'
import type { LabEvent } from './lab/pool.ts'
import { SavedLabs } from './lab/saved-lab.ts'
import { LocalHost } from './local.ts'
import type { MachineHost } from './machine-host.ts'

export { type Decision, decide, findLocal, type GuestKind } from './choose.ts'
export { describeHosts, type HostsReport } from './describe.ts'
export type { LabEvent } from './lab/pool.ts'
export { SavedLabs } from './lab/saved-lab.ts'
export type { HostInfo, HostMachine, MachineHost } from './machine-host.ts'

/** `auto`, `local`, `lab` (of the default kernel) or `lab:KERNEL`. */
export type HostChoice = 'auto' | 'local' | 'lab' | `lab:${string}`

export interface OpenHostOptions {
  /** Default `linux`. */
  guests?: GuestKind
  /** Unix socket of a process that called startLabs. Default KVITEST_LAB_SOCKET; without one this process starts its own. */
  labSocket?: string
}

export interface LabsOptions {
  /** Labs of one kernel at most; default one a core under TCG. */
  labs?: number
  /** Bytes of a lab. */
  memory?: number
  /** Where labs are saved and restored from, or `false`: every lab boots. Default: the cache, unless KVITEST_SAVED_LABS is 0. */
  savedLabs?: SavedLabs | false
  /** Labs start and end. */
  onEvent?: (event: LabEvent) => void
}

export interface Labs {
  socket: string
  /**
   * Ends the labs. Default: saves those that hold something new, for the next run to begin with; whoever closes
   * because a person interrupted gives `save: false`.
   */
  close(options?: { save?: boolean }): Promise<void>
}

/**
 * Serves labs to this process and others (KVITEST_LAB_SOCKET or `labSocket`) until closed. No lab starts before
 * the first guest needs it. The labs die with this process, however it ends.
 */
export async function startLabs(options: LabsOptions = {}): Promise<Labs> {
  const { savedLabs = process.env.KVITEST_SAVED_LABS !== '0' && new SavedLabs(), ...rest } = options
  const broker = await Broker.start({
    ...rest,
    accelerator: chooseAccelerator,
    ...(savedLabs ? { savedLabs } : {}),
  })
  return { socket: broker.socket, close: ({ save = true } = {}) => broker.close({ save }) }
}

let ownLabs: Promise<Labs> | undefined

/** Ends the labs that this process started for its own hosts, if any; as Labs.close. */
export async function closeOwnLabs(options: { save?: boolean } = {}): Promise<void> {
  const labs = ownLabs
  ownLabs = undefined
  await (await labs)?.close(options)
}

async function labSocket(options: OpenHostOptions): Promise<string> {
  const given = options.labSocket ?? process.env.KVITEST_LAB_SOCKET
  if (given) return given
  if (!ownLabs) {
    // Kept for the life of the process: it holds nothing open, and ends with it. A process that comes to its own end
    // saves its labs; one that exits or is interrupted does not.
    ownLabs = startLabs()
    process.once('beforeExit', () => void closeOwnLabs())
  }
  return (await ownLabs).socket
}

/**
 * Opens the place where guests will run. `auto` measures: Linux guests go to `local` only when ring 0 runs at
 * hardware speed there, else to a lab.
 */
export async function openMachineHost(
  choice: HostChoice = (process.env.KVITEST_HOST as HostChoice | undefined) || 'auto',
  options: OpenHostOptions = {},
): Promise<MachineHost> {
  if (choice === 'local') return LocalHost.open()
  if (choice === 'lab') return LabHost.connect(await labSocket(options), defaultKernel)
  if (choice.startsWith('lab:')) return LabHost.connect(await labSocket(options), choice.slice('lab:'.length))
  if (choice !== 'auto') {
    throw new KvitestError('open the host', `${choice}: no such host`, {
      code: 'EINVAL',
      hint: 'use auto, local, lab or lab:KERNEL such as lab:debian:6.1-cloud',
    })
  }
  const local = await findLocal()
  const { host } = decide(options.guests ?? 'linux', local)
  if (host === 'local' && local.host) return local.host
  await local.host?.close()
  return LabHost.connect(await labSocket(options), host.slice('lab:'.length))
}
