import { deserialize, serialize } from 'node:v8'
import { type BirpcReturn, createBirpc } from 'birpc'
import type { DirectoryEntry } from '../../image/directory.ts'
import type { PackEntry } from '../../image/pack-entry.ts'
import type {
  CheckpointInfo,
  ForkOptions,
  KvmProbe,
  MachineControl,
  MachineEvent,
  MachineSpec,
  NativeCounts,
} from '../../native/contract.ts'
import { KvitestError } from '../../native/error.ts'
import type { RawResult } from '../../native/raw-contract.ts'
import type { KernelFacts } from '../kernel-facts.ts'
import type { OutputStream, ProgramEnd, ProgramRequest } from '../program/contract.ts'
import type { RawStep } from '../raw/place.ts'

/**
 * The RPC between a client and a lab. One session is one connection, and holds at most one machine: what one
 * client does or fails to do ends with its session.
 */
export const protocolVersion = 4

/** Name of the virtio-serial port that carries the sessions. */
export const portName = 'org.kvitest.rpc'

/** Bytes of data in one call; the rest of a long write goes into the next call. */
export const chunkSize = 256 << 10

export interface LabDescription {
  kernelRelease: string
  cpus: number
  /** Bytes that guests may take. */
  memory: number
  kvm: KvmProbe
}

/** What a checkpoint is written as: to be loaded again, or for a debugger. */
export type SavedFormat = 'checkpoint' | 'core'

/** A checkpoint in a lab; the id is the lab's own and never used again. */
export interface LabCheckpointInfo {
  id: number
  info: CheckpointInfo
}

/** Names of what a lab has gathered and a freshly booted one lacks: `blob:SHA256`, `checkpoint:KEY`. */
export type LabContents = string[]

export interface LabStatus {
  /** Sessions that are open. */
  sessions: number
  counts: NativeCounts
  /** The lab's kernel is tainted by something that it was not at boot (a warning, an oops...), or a program ran in it. */
  isTainted: boolean
  contents: LabContents
}

/** What the server in a lab serves to the process that owns the lab (client 0 of the link). */
export interface ServerFunctions {
  /** The first call to a restored lab: whoever gives the nonce back has read it just now. */
  hello(nonce: string): Promise<{ nonce: string; version: number; description: LabDescription }>
  /**
   * The second call to it. Another lab restored from the same file has the same state of every random number
   * generator and the same clock: `entropy` goes to the kernel's, `now` (milliseconds since 1970) to the wall clock.
   */
  restored(moment: { entropy: Uint8Array; now: number }): Promise<void>
  status(): Promise<LabStatus>
}

/** What the owner of a lab serves to the server in it. */
export interface OwnerFunctions {
  /** Once, when the server has started. */
  greeting(version: number, description: LabDescription): void
}

/** What the lab serves to a session. */
export interface LabFunctions extends MachineControl {
  describe(): Promise<LabDescription>
  kernelFacts(): Promise<KernelFacts>
  /** Live native resources of the lab's server. */
  counts(): Promise<NativeCounts>
  /** 64 random bytes and the time (milliseconds since 1970) of the lab's kernel. */
  kernelState(): Promise<{ random: Uint8Array; now: number }>
  /** Returns what it got. */
  ping(data: Uint8Array): Promise<Uint8Array>
  /**
   * `present`: the lab has the file. `send`: the caller sends it now, with writeBlob. While another session sends
   * the same file, the answer waits for its end. The file stays until createMachine returns or the session ends.
   */
  ensureBlob(sha256: string, size: number): Promise<'present' | 'send'>
  /** The next bytes of a blob, in order; the caller withholds the last ones unless all had the hash. */
  writeBlob(sha256: string, data: Uint8Array): Promise<void>
  /**
   * Paths of the spec's payload and disks are sha256 names of blobs that ensureBlob named before; `directories`, by
   * tag, is what the directories of its virtio-9p devices hold.
   */
  createMachine(spec: MachineSpec, directories: Record<string, DirectoryEntry[]>): Promise<void>
  /** Of the session's machine. It goes with the session, unless another adopts it or the lab keeps it. */
  checkpoint(): Promise<LabCheckpointInfo>
  /** Makes a checkpoint of another session this one's own. */
  adoptCheckpoint(id: number): Promise<void>
  releaseCheckpoint(id: number): Promise<void>
  /** A fork of the checkpoint, of any session, becomes this session's machine. */
  forkCheckpoint(id: number, options: ForkOptions): Promise<void>
  /**
   * As forkCheckpoint, of the checkpoint that the lab keeps under a key. Undefined: there is none, and it is this
   * session that makes it; others that ask wait until it is kept or this session ends.
   */
  forkKept(key: string, options: ForkOptions): Promise<{ sidecar: unknown } | undefined>
  /** The lab takes the checkpoint, of any session, over. */
  keepCheckpoint(key: string, id: number, sidecar: unknown): Promise<void>
  /** Keys of the checkpoints that the lab keeps, the least recently used first. */
  contents(): Promise<string[]>
  /** Writes the checkpoint to a file in the lab and returns its size. The file goes with its last byte, or the session. */
  saveCheckpoint(id: number, format: SavedFormat): Promise<number>
  /** Fewer bytes than asked for only at the end. Bytes that are all zero come as their number. */
  readSaved(offset: number, length: number): Promise<Uint8Array | number>
  /** A checkpoint from a blob that ensureBlob named before. */
  loadCheckpoint(sha256: string): Promise<LabCheckpointInfo>
  /** RawPlace.batch() of the session's one session of raw access, which begins with the first call. */
  raw(steps: RawStep[]): Promise<RawResult[]>
  /** Makes the session's one root for programs; its files are blobs that ensureBlob named before. */
  openRoot(entries: PackEntry[]): Promise<void>
  /** As ProgramPlace.run(), in that root; output comes as the client's `output`, all of it before the answer. */
  runProgram(request: ProgramRequest): Promise<ProgramEnd>
}

/** What a client serves to the lab. */
export interface ClientFunctions {
  event(event: MachineEvent): void
  /** Of the session's program. */
  output(stream: OutputStream, data: Uint8Array): void
}

/** The first frame of a client. */
export interface ClientRequest {
  version: number
  /** `debian:6.12-cloud`: the kernel of the lab. */
  kernel: string
  /** What the machine will take, for placing it. */
  cpus: number
  memory: number
  /** Only in this lab, by the name that SessionOpened gave. */
  lab?: string
  /** Key of the checkpoint that the session will fork: rather in a lab that has it. */
  checkpoint?: string
  /** On whose behalf: sessions of one holder may wait for each other. Default: the connection itself. */
  holder?: string
  /** As Holder.within. */
  within?: string
}

/** The broker's answer to it; first it may say what the session waits for. */
export type SessionOpened =
  | { type: 'waiting'; what: string }
  | { type: 'opened'; lab: string; accelerator: string; labs: number }
  | { type: 'refused'; error: WireError }

/** From the broker: the lab died under the session. */
export interface SessionLost {
  type: 'lost'
  error: WireError
}

/** An error as it crosses a process boundary. */
export interface WireError {
  message: string
  code?: string
  operation: string
  hint?: string
  infra: boolean
}

export function toWire(error: unknown): WireError {
  const from = (error ?? {}) as Partial<KvitestError>
  return {
    message: error instanceof Error ? error.message : String(error),
    operation: from.operation ?? 'lab',
    infra: from.infra ?? true,
    ...(from.code ? { code: from.code } : {}),
    ...(from.hint ? { hint: from.hint } : {}),
  }
}

export function fromWire(wire: WireError): KvitestError {
  // The message already reads "operation: detail; hint".
  const prefix = `${wire.operation}: `
  const suffix = wire.hint ? `; ${wire.hint}` : ''
  const from = wire.message.startsWith(prefix) ? prefix.length : 0
  const to =
    suffix && wire.message.endsWith(suffix) ? wire.message.length - suffix.length : wire.message.length
  return new KvitestError(wire.operation, wire.message.slice(from, to), {
    code: wire.code,
    hint: wire.hint,
    infra: wire.infra,
  })
}

interface Message {
  e?: unknown
}

/** One end of a session's RPC over messages. `receive` takes each message of the peer. */
export interface RpcEnd<Remote extends object, Local extends object> {
  rpc: BirpcReturn<Remote, Local>
  receive(message: Buffer): void
}

/**
 * birpc over v8-serialised messages. Calls have no timeout of their own: a write waits as long as its guest does
 * not read, and a lost lab closes the RPC with the reason.
 */
export function openRpc<Remote extends object, Local extends object>(
  local: Local,
  eventNames: (keyof Remote)[],
  post: (message: Buffer) => void,
): RpcEnd<Remote, Local> {
  let listener: (message: Buffer) => void = () => {}
  const rpc = createBirpc<Remote, Local>(local, {
    post,
    on: (receive) => {
      listener = receive
    },
    off: () => {
      listener = () => {}
    },
    eventNames,
    timeout: -1,
    serialize: (message: Message) =>
      // Errors lose their own fields in the structured clone.
      serialize(message.e === undefined ? message : { ...message, e: toWire(message.e) }),
    deserialize: (data: Buffer) => {
      const message = deserialize(data) as Message
      return message.e === undefined ? message : { ...message, e: fromWire(message.e as WireError) }
    },
  })
  return { rpc, receive: (message) => listener(message) }
}
