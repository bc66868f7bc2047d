import type { IdleLimitOption } from '../../guest/idle-limits.ts'
import type { KernelEntry } from '../../image/boot-image.ts'
import type { DeviceSpec, Transport } from '../../native/contract.ts'

/** What the host does with a port of a script; docs/tap-scripts.md says it in full. */
export const PEERS = [
  'sink',
  'echo',
  'sha256',
  'source',
  'count',
  'hold',
  'door',
  'terminal',
  'machine',
] as const
export type Peer = (typeof PEERS)[number]
/** Peers that take commands on a port `NAME.control`. */
export const CONTROLLED: readonly Peer[] = ['hold', 'door', 'terminal']

export interface ScriptPort {
  name: string
  peer: Peer
  console: boolean
}

export const TRANSPORTS: readonly Transport[] = ['pci', 'mmio']
export const RINGS = ['split', 'packed'] as const
export type Ring = (typeof RINGS)[number]

/** Which of a script's runs get a fork of their own: the whole file, each point; or none, and the guest is booted. */
export const FORK_MODES = ['file', 'point', 'none'] as const
export type ForkMode = (typeof FORK_MODES)[number]

/** The `# guest:` of a script, checked; lists are the axes of its variants. */
export interface ScriptGuest {
  cpus: number[]
  /** Bytes. */
  memory: number[]
  kernel?: string
  entry?: KernelEntry
  devices: DeviceSpec[]
  /** Of every device that does not say its own. */
  transport: Transport[]
  /** Of every device's queues. */
  ring: Ring[]
  /** Every port with a peer, on whichever device. */
  ports: ScriptPort[]
  cmdline?: string
  modules: string[]
  /** Of Debian. */
  packages: string[]
  /** Guest path -> path beside the script. */
  files: Record<string, string>
  /** Milliseconds. */
  bootTimeout?: number
  /** Milliseconds. */
  idleLimit?: IdleLimitOption
  fork: ForkMode
}

export interface ScriptHeader {
  guest: ScriptGuest
  /** Milliseconds from the start of the script. */
  timeout: number
  env: Record<string, string>
  skip?: string
  /** Globs of the points that may skip themselves; `script` for the script as a whole. */
  skips: string[]
  only: boolean
  /** The line of `# guest:`, else 1. */
  line: number
}

/** A point that the text of the script shows before anything runs. */
export interface DeclaredPoint {
  name: string
  /** 1-based. */
  line: number
}

/** A call whose name is made at run time; what stands before the first `$` tells which line a point came from. */
export interface DynamicPoint {
  prefix: string
  line: number
}

export interface ScriptPoints {
  declared: DeclaredPoint[]
  dynamic: DynamicPoint[]
}

/** One guest of a script. */
export interface Variant {
  /** `cpus=2`, empty when the script has one guest only. */
  name: string
  cpus: number
  /** Bytes. */
  memory: number
  transport: Transport
  ring: Ring
}

/** Everything a worker needs to run a script; travels as JSON in the generated module. */
export interface ScriptPlan {
  /** Absolute. */
  file: string
  header: ScriptHeader
  points: ScriptPoints
  variants: Variant[]
}

export function variantsOf(guest: ScriptGuest): Variant[] {
  const named = (axis: readonly unknown[], name: string) => (axis.length > 1 ? [name] : [])
  return guest.cpus.flatMap((cpus) =>
    guest.memory.flatMap((memory) =>
      guest.transport.flatMap((transport) =>
        guest.ring.map((ring) => ({
          name: [
            ...named(guest.cpus, `cpus=${cpus}`),
            ...named(guest.memory, `memory=${memory / 1024 ** 2}M`),
            ...named(guest.transport, `transport=${transport}`),
            ...named(guest.ring, `ring=${ring}`),
          ].join(' '),
          cpus,
          memory,
          transport,
          ring,
        })),
      ),
    ),
  )
}

/** The devices of a script's guest, as a variant wants them; what is usual is not said. */
export function devicesOf(guest: ScriptGuest, { transport, ring }: Variant): DeviceSpec[] {
  return guest.devices.map((device) => ({
    ...device,
    ...(transport === 'mmio' && device.transport === undefined ? { transport } : {}),
    ...(ring === 'packed' ? { withFeatures: [...(device.withFeatures ?? []), 'ring_packed'] } : {}),
  }))
}
