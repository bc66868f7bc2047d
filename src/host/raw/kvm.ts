import { KvitestError } from '../../native/error.ts'
import {
  type RawCall,
  type RawCallOptions,
  type RawChild,
  type RawHandle,
  type RawPatch,
  type RawResult,
  rawLimits,
} from '../../native/raw-contract.ts'
import type { RawPlace, RawStep } from './place.ts'
import { RunArea } from './run-area.ts'

/** An fd in the session's place; closed with the session at the latest. */
export class RawFd {
  readonly handle: RawHandle

  constructor(handle: RawHandle) {
    this.handle = handle
  }
}

/** Memory in the session's place: what memslots and structures point to, or a mapping of an fd. */
export class RawMemory {
  readonly handle: RawHandle
  readonly bytes: number
  /** In the process that makes the calls. For arithmetic; structures get it by a patch. */
  readonly address: bigint
  readonly #place: RawPlace

  constructor(place: RawPlace, handle: RawHandle, bytes: number, address: bigint) {
    this.#place = place
    this.handle = handle
    this.bytes = bytes
    this.address = address
  }

  /** Rejects with EFAULT where no memory is behind the mapping, with EINVAL beyond its end. */
  async read(offset = 0, length = this.bytes - offset): Promise<Uint8Array> {
    const data = new Uint8Array(length)
    for (const [at, size] of pieces(length)) {
      const call: RawCall = { do: 'read', memory: this.handle, offset: offset + at, length: size }
      data.set((await one(this.#place, call)).data!, at)
    }
    return data
  }

  /** Rejects as read(). */
  async write(offset: number, data: Uint8Array): Promise<void> {
    for (const [at, size] of pieces(data.length)) {
      const part = data.subarray(at, at + size)
      await one(this.#place, { do: 'write', memory: this.handle, offset: offset + at, data: part })
    }
  }

  /** Unmaps it. A memslot that still points there gives KVM_RUN an error. */
  async release(): Promise<void> {
    await one(this.#place, { do: 'unmap', memory: this.handle })
  }
}

/** A place in memory whose address a call is given. */
export interface RawPointer {
  memory: RawMemory
  offset?: number
}

export interface IoctlOptions extends RawCallOptions {
  /** Addresses (8 bytes) and fds (4 bytes) to put into the argument. They come back as zeros. */
  patches?: ({ at: number; memory: RawMemory; offset?: number } | { at: number; fd: RawFd })[]
  /** Makes it so many times, or until an answer differs from the one before; `outcomes` counts them. */
  repeat?: number
  /** In a forked child of the process that made the fd; what the child does before. */
  inChild?: boolean | RawChild
}

/** What a system call answered: `value`, or an `errno` and -1. */
export interface RawAnswer extends Omit<RawResult, 'madeFd' | 'address'> {
  /** The fd that it made. */
  fd?: RawFd
}

export interface RunAnswer extends RawAnswer {
  /** kvm_run when KVM_RUN returned, also with an errno; only a call that hung has none. */
  area?: RunArea
}

/** A vCPU, its kvm_run, and the thread that runs it. */
export interface RawVcpu {
  readonly fd: RawFd
  readonly area: RawMemory
  readonly thread: string
}

export interface RunOptions extends RawCallOptions {
  immediateExit?: boolean
  /** Enters again as long as KVM_RUN answers EINTR, so many times at most; `outcomes` counts. */
  repeat?: number
}

/** Bytes of one RPC message's data. */
const pieceSize = Math.min(256 << 10, rawLimits.argument)

function* pieces(length: number): Generator<[number, number]> {
  for (let at = 0; at < length; at += pieceSize) yield [at, Math.min(pieceSize, length - at)]
}

/** A call that is expected to succeed. */
async function one(place: RawPlace, call: RawCall): Promise<RawResult> {
  const [result] = await place.batch([call])
  if (result!.hung || result!.errno) {
    throw new KvitestError(`raw KVM access: ${call.do}`, result!.errno ?? 'the call hangs', {
      code: result!.errno,
    })
  }
  return result!
}

/**
 * Raw access to a host's KVM: any ioctl on any KVM fd, the same on `local` and in a lab. A system call that fails is an
 * answer with an errno; a rejection says that the call could not be made. Every call has a deadline (default 2 s), and
 * one that does not come back is an answer too (`hung`).
 */
export class RawKvm implements AsyncDisposable {
  readonly #place: RawPlace
  #lastHandle = 0

  constructor(place: RawPlace) {
    this.#place = place
  }

  /** A number for an fd or a mapping that a batch will make (`as`). */
  nextHandle(): RawHandle {
    return ++this.#lastHandle
  }

  /** Several steps in one round trip; see RawPlace. */
  batch(steps: RawStep[]): Promise<RawResult[]> {
    return this.#place.batch(steps)
  }

  /** open(2), read and write. */
  open(path = '/dev/kvm'): Promise<RawAnswer> {
    return this.#make((as) => ({ do: 'open', path, as }))
  }

  /** The argument: by value, or bytes whose state after the call is the answer's `data`, or an address. */
  ioctl(
    fd: RawFd,
    request: number,
    argument: number | bigint | Uint8Array | RawPointer = 0,
    options: IoctlOptions = {},
  ): Promise<RawAnswer> {
    return this.#make((as) => ioctlCall(fd, request, argument, options, as))
  }

  /** Never blocking: without a signal readFd() answers EAGAIN. */
  async eventfd(options: { initial?: number; semaphore?: boolean } = {}): Promise<RawFd> {
    const as = this.nextHandle()
    await one(this.#place, { do: 'eventfd', ...options, as })
    return new RawFd(as)
  }

  readFd(fd: RawFd, length: number, options: RawCallOptions & { offset?: number } = {}): Promise<RawAnswer> {
    return this.#make(() => ({ do: 'readFd', fd: fd.handle, length, ...options }))
  }

  writeFd(fd: RawFd, data: Uint8Array, options: RawCallOptions = {}): Promise<RawAnswer> {
    return this.#make(() => ({ do: 'writeFd', fd: fd.handle, data, ...options }))
  }

  /** The kernel's object goes at once, also when a call is using it. */
  close(fd: RawFd): Promise<RawAnswer> {
    return this.#make(() => ({ do: 'close', fd: fd.handle }))
  }

  /** Anonymous memory, all zeros, page aligned; with `huge` aligned to 2 MiB and huge pages asked for. */
  async memory(bytes: number, options: { huge?: boolean; shared?: boolean } = {}): Promise<RawMemory> {
    const as = this.nextHandle()
    const { address } = await one(this.#place, { do: 'map', bytes, ...options, as })
    return new RawMemory(this.#place, as, bytes, address!)
  }

  /** mmap(2) of an fd, shared. */
  async map(fd: RawFd, bytes: number, offset = 0): Promise<RawAnswer & { memory?: RawMemory }> {
    const as = this.nextHandle()
    const [result] = await this.#place.batch([{ do: 'map', fd: fd.handle, bytes, offset, as }])
    const { address, ...answer } = result!
    return address === undefined
      ? answer
      : { ...answer, memory: new RawMemory(this.#place, as, bytes, address) }
  }

  /** KVM_RUN, on the vCPU's own thread. */
  async run(vcpu: RawVcpu, options: RunOptions = {}): Promise<RunAnswer> {
    const answer = await this.#make(() => ({
      do: 'run',
      vcpu: vcpu.fd.handle,
      area: vcpu.area.handle,
      thread: vcpu.thread,
      ...options,
    }))
    return answer.data ? { ...answer, area: new RunArea(answer.data) } : answer
  }

  /**
   * Waits until a call runs on the vCPU's thread and interrupts it by a signal until KVM_RUN has come back `count`
   * times, as long as the call runs. The answer's value: how many times it did.
   */
  signal(vcpu: RawVcpu, count = 1, options: RawCallOptions = {}): Promise<RawAnswer> {
    return this.#make(() => ({ do: 'signal', target: vcpu.thread, count, thread: 'signals', ...options }))
  }

  /** Ends every call, closes every fd, unmaps all memory. */
  end(): Promise<void> {
    return this.#place.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.end()
  }

  async #make(call: (as: RawHandle) => RawCall): Promise<RawAnswer> {
    const as = this.nextHandle()
    const [result] = await this.#place.batch([call(as)])
    const { madeFd, address: _, ...answer } = result!
    return madeFd ? { ...answer, fd: new RawFd(as) } : answer
  }
}

/** The call of RawKvm.ioctl(), for a batch. */
export function ioctlCall(
  fd: Pick<RawFd, 'handle'>,
  request: number,
  argument: number | bigint | Uint8Array | RawPointer = 0,
  options: IoctlOptions = {},
  as?: RawHandle,
): RawCall {
  const { patches, ...rest } = options
  return {
    do: 'ioctl',
    fd: fd.handle,
    request,
    argument:
      typeof argument === 'object' && 'memory' in argument
        ? { memory: argument.memory.handle, offset: argument.offset ?? 0 }
        : argument,
    ...(patches ? { patches: patches.map(plainPatch) } : {}),
    ...(as === undefined ? {} : { as }),
    ...rest,
  }
}

function plainPatch(patch: NonNullable<IoctlOptions['patches']>[number]): RawPatch {
  if ('fd' in patch) return { at: patch.at, fd: patch.fd.handle }
  return { at: patch.at, memory: patch.memory.handle, offset: patch.offset ?? 0 }
}
