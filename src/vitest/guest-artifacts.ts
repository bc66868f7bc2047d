import { relative } from 'node:path'
import type { GuestRecord } from '../guest/record.ts'
import type { GuestEnd } from '../guest/types.ts'
import { writeArtifacts } from '../report/guest-artifacts.ts'
import type { Verdict } from '../verdict/types.ts'
import { claimDirectory, type RunPlace, rerunIn, runPlace } from './run-place.ts'

/** What a report says of a guest's files. */
export interface KeptArtifacts {
  /** Relative to the root. */
  directory: string
  files: string[]
}

/** What leads from a failure to the guest behind it. */
export interface GuestTrace {
  kept?: KeptArtifacts
  /** The command that runs its tests again. */
  rerun: string
  /** Lines for the text of a failure. */
  lines: string[]
}

const harmless: readonly Verdict[] = ['pass', 'skip']

/** The files of one guest of a test file, and the way back to it. */
export class GuestArtifacts {
  readonly #file: string
  readonly #place: RunPlace | undefined
  /** Absolute. */
  readonly #directory: string | undefined
  readonly #kernel: string | undefined

  /** `guest` names it among those of the file; `kernel` as KVITEST_KERNEL gave it, when the file does not choose. */
  constructor(file: string, guest: string, kernel: string | undefined) {
    this.#file = file
    this.#place = runPlace()
    this.#kernel = kernel
    const isWanted = this.#place !== undefined && this.#place.when !== 'none'
    this.#directory = isWanted ? claimDirectory(this.#place!, file, guest) : undefined
  }

  get wantsCore(): boolean {
    return this.#directory !== undefined && this.#place!.core
  }

  /** Lines for the failure of one test, whose guest may still run. */
  hints(host: string | undefined, what: { test?: string; block?: string }): string[] {
    const place = this.#directory === undefined ? [] : [`artifacts: ${this.#relative()}`]
    return [...place, `rerun: ${rerunIn(this.#place, this.#file, { ...what, host, kernel: this.#kernel })}`]
  }

  /** Writes the files of a guest that ended badly, or of any when the run asks for it. Never rejects. */
  async keep(
    end: Pick<GuestEnd, 'verdict' | 'reason' | 'evidence' | 'machine'>,
    record: GuestRecord | undefined,
    what: { test?: string; block?: string; isBad?: boolean; saveCore?: (path: string) => Promise<void> },
  ): Promise<GuestTrace> {
    const { test, block, isBad = !harmless.includes(end.verdict), saveCore } = what
    const again = { ...(test === undefined ? {} : { test }), ...(block === undefined ? {} : { block }) }
    const host = record?.host.name
    const rerun = rerunIn(this.#place, this.#file, { ...again, host, kernel: this.#kernel })
    const isWanted = record && this.#directory !== undefined && (isBad || this.#place!.when === 'always')
    const lines = isBad ? [`rerun: ${rerun}`] : []
    if (!isWanted) return { rerun, lines }
    try {
      const core = this.wantsCore && isBad && saveCore ? { saveCore } : {}
      const files = await writeArtifacts({ directory: this.#directory!, record, end, rerun, ...core })
      const kept = { directory: this.#relative(), files }
      return { kept, rerun, lines: [`artifacts: ${kept.directory}`, ...lines] }
    } catch (error) {
      // The failure of a test may have been told by now.
      process.stderr.write(`kvitest: ${(error as Error).message}\n`)
      return { rerun, lines: [`artifacts: ${(error as Error).message}`, ...lines] }
    }
  }

  #relative(): string {
    const path = relative(this.#place!.root, this.#directory!)
    return path.startsWith('..') ? this.#directory! : path
  }
}
