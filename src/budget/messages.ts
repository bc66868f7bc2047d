import type { Socket } from 'node:net'
import { StringDecoder } from 'node:string_decoder'
import type { Capacity, Limits } from './capacity.ts'
import type { Refusal } from './machine-budget.ts'

/** A line of JSON each, over the budget's socket. */

/** What a process that wants leases says. */
export type ClientMessage =
  /** The first one, with all that another server granted and the process still has. */
  | {
      type: 'hello'
      version: number
      pid: number
      run: string
      limits: Limits
      /** By the server of before; absent when the process has nothing of it. */
      measured?: Capacity
      holds: HeldRecord[]
      blocked: string[]
    }
  | ({ type: 'ask' } & LeaseRecord)
  | { type: 'started'; id: number }
  /** `outcome` for those who watch: a verdict, or nothing. */
  | { type: 'leave'; id: number; outcome?: string }
  | { type: 'blocked'; holder: string; isBlocked: boolean }
  /** Why a request waits; answered by `because`. */
  | { type: 'why'; id: number }
  /** From now on every event of this run is sent to the asking process. */
  | { type: 'watch' }
  /** Who has what; answered by `leases`. Needs no hello. */
  | { type: 'list' }
  /** For the watchers of the run. */
  | { type: 'tell'; event: RunEvent }

export type ServerMessage =
  | { type: 'welcome'; version: number; measured: Capacity }
  | { type: 'granted'; id: number }
  | ({ type: 'refused'; id: number } & Refusal)
  | { type: 'because'; id: number; text: string }
  | { type: 'leases'; leases: ListedLease[] }
  | { type: 'event'; event: RunEvent }

export interface LeaseRecord {
  /** The client's own number. */
  id: number
  holder: string
  /** As Holder.within. */
  within?: string
  guest: string
  cpus: number
  /** Bytes. */
  memory: number
}

/** A lease of anybody, for people. */
export interface ListedLease {
  pid: number
  guest: string
  cpus: number
  /** Bytes. */
  memory: number
  state: Exclude<GuestState, 'ended'>
}

export interface HeldRecord extends LeaseRecord {
  isStarting: boolean
}

export type GuestState = 'waiting' | 'starting' | 'running' | 'ended'

/** `key` tells guests of one name apart; `detail`: why it waits, how long it took, its verdict. */
export interface GuestEvent {
  type: 'guest'
  key: string
  guest: string
  state: GuestState
  detail?: string
  /** It starts beyond what there is, because nothing moved. */
  isStalled?: boolean
}

/** What happens in a run. */
export type RunEvent =
  | GuestEvent
  /** A line of a guest's console. */
  | { type: 'console'; guest: string; line: string }

export const protocolVersion = 1

/** A line longer than this is no message of ours. */
const maxLine = 1 << 20

/** Calls `receive` for each message that comes, and ends the connection at the first thing that is none. */
export function readMessages<Message>(socket: Socket, receive: (message: Message) => void): void {
  const decoder = new StringDecoder('utf8')
  let rest = ''
  socket.on('data', (chunk: Buffer) => {
    const lines = (rest + decoder.write(chunk)).split('\n')
    rest = lines.pop()!
    try {
      if (rest.length > maxLine) throw new Error('too long')
      for (const line of lines) receive(JSON.parse(line) as Message)
    } catch {
      socket.destroy()
    }
  })
}

export function send(socket: Socket, message: ClientMessage | ServerMessage): void {
  if (socket.writable) socket.write(`${JSON.stringify(message)}\n`)
}
