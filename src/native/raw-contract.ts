/**
 * Raw access to KVM as the addon serves it: plain, structured-cloneable calls. `native/kvm/raw/call.h` in TypeScript.
 * Test authors use RawKvm (src/host/raw/kvm.ts), which is made of these.
 */

/**
 * The caller's own number for an fd or a mapping, chosen by the caller, so that a later call of the same batch can name
 * what an earlier one makes. Fds and mappings are numbered apart; a number may be used again after its close or unmap.
 */
export type RawHandle = number

/** Puts the address of a mapping (8 bytes) or the number of an fd (4 bytes) into an argument. */
export type RawPatch = { at: number; memory: RawHandle; offset?: number } | { at: number; fd: RawHandle }

/** By value; bytes that are copied in, and come back as the kernel left them; or an address in a mapping. */
export type RawArgument = number | bigint | Uint8Array | { memory: RawHandle; offset?: number }

/** A forked child of the process that makes the calls: it shares the fds, and dies with its call. What it does before. */
export interface RawChild {
  /** An ioctl without argument on the call's fd; the call's own is then made on the fd that it answers. */
  first?: number
  /** RLIMIT_NOFILE from then on. */
  files?: number
  /**
   * Executes another program, which makes the call: with the fd as it is, or with close-on-exec taken off it. The argument
   * is a value, or bytes without patches.
   */
  exec?: 'leave' | 'inherit'
}

export type RawOperation =
  /** open(2), read and write, close on exec. */
  | { do: 'open'; path: string; as: RawHandle }
  /**
   * ioctl(2). An fd that the request answers with, or writes into its argument (KVM_CREATE_DEVICE), becomes `as`.
   * `repeat`: made so many times, or until an answer differs from the one before.
   */
  | {
      do: 'ioctl'
      fd: RawHandle
      request: number
      argument?: RawArgument
      patches?: RawPatch[]
      as?: RawHandle
      repeat?: number
      inChild?: boolean | RawChild
    }
  /**
   * KVM_RUN; `area` is the mapping of the vCPU's fd. The answer's data are the first 8192 bytes of it. `repeat`: so many
   * times, as long as it answers EINTR.
   */
  | { do: 'run'; vcpu: RawHandle; area: RawHandle; immediateExit?: boolean; repeat?: number }
  /** mmap(2): of an fd (shared), or anonymous memory. `huge`: aligned to 2 MiB, with huge pages asked for. */
  | {
      do: 'map'
      fd?: RawHandle
      bytes: number
      offset?: number
      shared?: boolean
      huge?: boolean
      as: RawHandle
    }
  | { do: 'unmap'; memory: RawHandle }
  | { do: 'read'; memory: RawHandle; offset: number; length: number }
  | { do: 'write'; memory: RawHandle; offset: number; data: Uint8Array }
  /** eventfd(2), never blocking. */
  | { do: 'eventfd'; initial?: number; semaphore?: boolean; as: RawHandle }
  /** read(2), with an offset pread(2). */
  | { do: 'readFd'; fd: RawHandle; length: number; offset?: number }
  | { do: 'writeFd'; fd: RawHandle; data: Uint8Array }
  | { do: 'close'; fd: RawHandle }
  /**
   * Waits until a call runs on `target` and interrupts it by a signal until a system call of it has come back `count`
   * times (default 1), as long as a call runs. The answer's value is how many times one did.
   */
  | { do: 'signal'; target: string; count?: number }
  /** The answer's value is how many threads the process has that makes the calls; the kernel may have put one into it. */
  | { do: 'countThreads' }

/** What every call may say. */
export interface RawCallOptions {
  /** The thread that makes it, started when first named. Calls of one thread are made in order. Default `main`. */
  thread?: string
  /** Milliseconds from when the call is made; then its thread is kicked. Default 2000. */
  deadline?: number
}

export type RawCall = RawOperation & RawCallOptions

export interface RawResult {
  /** What the system call returned; -1 with an errno, 0 where it was an fd. */
  value: number
  /** `EINVAL`... */
  errno?: string
  data?: Uint8Array
  /** The call's `as` names an fd now. */
  madeFd?: true
  /** Of `map`. */
  address?: bigint
  /** Of a repeated call: how often each errno came; `ok` without. */
  outcomes?: Record<string, number>
  /** The deadline passed and the thread was kicked. */
  expired?: true
  /** It did not come back even then, and was given up with its thread; the next call there gets a new one. */
  hung?: true
}

/** Limits of one session. */
export const rawLimits = {
  /** Bytes of an argument, and of data at once. */
  argument: 1 << 20,
  /** Bytes of a mapping. */
  mapping: 2 ** 40,
  repeat: 1_000_000,
} as const

export interface NativeRaw {
  /**
   * A system call that fails is an answer. Rejects with a NativeError when the call could not be made: a handle that
   * names nothing (EBADF) or is in use (EEXIST), a range or size beyond a limit (EINVAL), a closed session (ECANCELED).
   */
  call(call: RawCall): Promise<RawResult>
  /** Ends every call and thread, closes every fd, unmaps all memory. Idempotent. */
  close(): Promise<void>
}
