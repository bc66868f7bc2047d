/** Programs of a pack on a host: what is asked and what comes back, as plain data for a lab's RPC. */

/** A program to run; its paths are those of the pack. It starts in `/` and may write to `/tmp` and `/run`, empty at first. */
export interface ProgramRequest {
  /** The first is an absolute path in the pack. */
  argv: string[]
  /** All of its environment but PATH and HOME. */
  environment?: Record<string, string>
  /** `own` (default): a network with a loopback that is down and nothing else. `host`: what the host's VMM has, its taps too. */
  network?: 'own' | 'host'
  /** Milliseconds, then it is killed with all that it started. */
  deadline: number
  /** Bytes that are kept of each of its streams; what is beyond is counted. Default 1 MiB. */
  outputLimit?: number
}

export type OutputStream = 'stdout' | 'stderr'

/** How a program ended. */
export interface ProgramEnd {
  /** Exit status; null when it ended by a signal. */
  status: number | null
  /** `SIGSEGV`. A program that exits with 128 + its number cannot be told from one that it ended. */
  signal: string | null
  /** It was over its deadline and was killed. */
  expired: boolean
  /** Milliseconds. */
  duration: number
  /** Bytes that were beyond the limit. */
  lost: number
  /** What the host's kernel logged meanwhile, a line each; absent where this user may not read it. */
  kernelLog?: string[]
}

export interface ProgramResult extends ProgramEnd {
  stdout: string
  stderr: string
}

/** Programs of one pack, in one place on the host, one at a time. */
export interface ProgramPlace {
  /**
   * Runs it to its end. Rejects with a KvitestError when it could not be run: the host is gone, the pack could not be
   * mounted. `onOutput` gets each piece as it comes.
   */
  run(
    request: ProgramRequest,
    onOutput?: (stream: OutputStream, data: Uint8Array) => void,
  ): Promise<ProgramResult>
  /** Kills what runs and removes what was put there. Idempotent. */
  close(): Promise<void>
}

/** What a pack's programs take of the host, for placing them. */
export interface ProgramNeed {
  cpus: number
  /** Bytes, with those of the guests that they run. */
  memory: number
}

/** Puts together what came of a program's streams. */
export class ProgramOutput {
  readonly #parts: Record<OutputStream, Uint8Array[]> = { stdout: [], stderr: [] }

  push(stream: OutputStream, data: Uint8Array): void {
    this.#parts[stream].push(data)
  }

  result(end: ProgramEnd): ProgramResult {
    const text = (stream: OutputStream) => Buffer.concat(this.#parts[stream]).toString()
    return { ...end, stdout: text('stdout'), stderr: text('stderr') }
  }
}
