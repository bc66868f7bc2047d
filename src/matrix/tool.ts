import type { ProgramNeed, ProgramPlace } from '../host/program/contract.ts'
import type { Pack } from '../image/pack.ts'
import type { GuestMachine, ToolSetup } from './machine.ts'

/** What a guest sees of its machine: one section of it, value by key. */
export type Fingerprint = Record<string, string>

/** What one point of a tool came to. */
export interface PointResult {
  verdict: 'pass' | 'fail' | 'skip' | 'timeout' | 'oops' | 'infra'
  /** One line; of a skip the tool's own. */
  reason?: string
  /** What the tool and the host's kernel said, bounded. */
  output: string
  /** Milliseconds; absent where many points came out of one run. */
  duration?: number
  /** Compared with that of the baseline's cell. */
  fingerprint?: Fingerprint
}

/** Where a cell's tool runs. */
export interface ToolPlace {
  /** Programs of the tool's pack. Throws for a tool without one. */
  readonly programs: ProgramPlace
  /** Name of the host, for a tool that is no program. */
  host: string
}

/** A tool that is at hand, and how its points come about. */
export interface PreparedTool {
  /** What is put on the host; absent for what is there anyhow. */
  pack?: Pack
  /** sha256: the same hash, the same tool. */
  hash: string
  /** As the tool says it, or as its package does. */
  version: string
  /** Where it is more than the tool's: of a larger machine. */
  need?: ProgramNeed
  /** Each point is a run of its own... */
  each?: {
    points: string[]
    run: (at: ToolPlace, point: string) => Promise<PointResult>
  }
  /** ...or one run has them all. */
  all?: (at: ToolPlace) => Promise<Map<string, PointResult>>
}

/** A program of some version that drives KVM. */
export interface Tool {
  /** `selftests-6.12`: unique in a matrix. */
  name: string
  /** It boots a Linux guest, so the axes of guest kernels and machines are its own. */
  takesGuest: boolean
  /** What it can have its guests run by; default `kvm` alone. */
  accelerators?: readonly string[]
  /** Why it cannot give its guest that machine, undefined when it can. Without this it has its own only. */
  refusesMachine?(machine: GuestMachine): string | undefined
  /** Of the host, with the guests it runs. */
  need: ProgramNeed
  /** Fetches, builds and packs it; cached by content. `setup`: default KVM and its own machine. */
  prepare(guest: string | undefined, setup?: ToolSetup): Promise<PreparedTool>
}
