import type { TaskMeta } from 'vitest'
import type { CellRecord } from '../matrix/account.ts'
import type { PointResult } from '../matrix/tool.ts'
import type { Point } from '../tap/types.ts'
import type { Place } from '../verdict/expectations.ts'
import type { Judgement, Verdict } from '../verdict/types.ts'

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
  /** How it came to be; absent when it did not. */
  start?: 'fork' | 'boot'
  /** How often it was taken back to its checkpoint; absent when never. */
  resets?: number
  /** Known splats that were not counted against it, and the entry that allowed each. */
  allowed?: { title: string; source: string }[]
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

/** On a test that failed as an `*.expect.yaml` says it does, and therefore counts as passed. */
export interface ExpectedMeta {
  /** `suites/virtio/virtio.expect.yaml:12` */
  source: string
  reason: string
  link: string
  expires: string
  /** What it failed with. */
  failure: string
}

/** A matrix, the cells it is expected to have, and those that it had in this run. */
export interface MatrixMeta {
  name: string
  expected: string[]
  cells: CellRecord[]
}

declare module 'vitest' {
  interface TaskMeta {
    /** The guest of this block, file or test; of several the one that stands for them. */
    kvitestGuest?: GuestMeta
    /** All guests of it, when there was more than that one: of retries, of points with a fork each. */
    kvitestGuests?: GuestMeta[]
    kvitestPoint?: PointMeta
    /** On each test of a script. */
    kvitestPlace?: Place
    kvitestExpected?: ExpectedMeta
    /** The entry that expected a failure of a test that passes. */
    kvitestUnexpectedPass?: { source: string }
    /** The cell of this block. */
    kvitestCell?: CellRecord
    /** What a point of a cell came to, with its output bounded. */
    kvitestResult?: PointResult
    /** The matrices of this file. */
    kvitestMatrices?: MatrixMeta[]
  }
}

/** Every guest of a block, file or test. */
export function guestsOf({ kvitestGuest, kvitestGuests }: TaskMeta): GuestMeta[] {
  return kvitestGuests ?? (kvitestGuest ? [kvitestGuest] : [])
}

/** As GuestMeta has what a judge allowed. */
export function allowedMeta({ allowed }: Judgement): Pick<GuestMeta, 'allowed'> {
  return allowed ? { allowed: allowed.map(({ title, by }) => ({ title, source: by.source })) } : {}
}
