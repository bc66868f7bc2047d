import type { Point } from '../tap/types.ts'
import type { Verdict } from '../verdict/types.ts'

/** What one guest was and came to; on the describe block (or file) whose points it printed. */
export interface GuestMeta {
  /** As asked for: `debian:6.12-cloud`. */
  kernel: string
  /** uname -r in the guest. */
  kernelRelease?: string
  host?: string
  hostKernel?: string
  accelerator?: string
  cpus: number
  /** Bytes. */
  memory?: number
  verdict: Verdict
  reason: string
  /** Milliseconds from machine start to the agent's greeting. */
  bootTime?: number
  /** Milliseconds of the script, measured in the guest. */
  scriptTime?: number
  /** Head and tail of the serial console. */
  console: string
  /** Files that were kept of it. */
  artifacts?: {
    /** Relative to the root of the run. */
    directory: string
    files: string[]
  }
}

/** On each point's test. */
export interface PointMeta {
  id: number
  result: Point['result']
  /** Milliseconds from the start of the script until the point settled. */
  elapsed: number
}

declare module 'vitest' {
  interface TaskMeta {
    kvitestGuest?: GuestMeta
    kvitestPoint?: PointMeta
  }
}
