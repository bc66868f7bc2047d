import { KvitestError } from '../native/error.ts'
import type { GuestRecord } from './record.ts'
import type { GuestEnd } from './types.ts'

/** A guest ended where it should not have: before its agent greeted, or under a command. */
export class GuestError extends KvitestError {
  /** What the guest ended as, with the evidence. */
  readonly end: GuestEnd
  /** All that its serial console showed. */
  readonly console: string

  /** What was seen of a guest that nobody was given. */
  readonly record: GuestRecord | undefined

  constructor(operation: string, end: GuestEnd, console: string, hint?: string, record?: GuestRecord) {
    super(operation, `${end.verdict}: ${end.reason}`, {
      hint,
      code: end.verdict === 'infra' ? 'EINFRA' : 'EGUEST',
      infra: end.verdict === 'infra',
    })
    this.end = end
    this.console = console
    this.record = record
  }
}

/** For what waited when a guest was taken back to its checkpoint. */
export function wasReset(guest: string): KvitestError {
  return new KvitestError(`guest ${guest}`, 'it was reset to its checkpoint', {
    code: 'ECANCELED',
    infra: false,
  })
}

/** For what waited when a guest ended. */
export function hasEnded(guest: string, reason: string): KvitestError {
  return new KvitestError(`guest ${guest}`, `it has ended (${reason})`, { code: 'EPIPE', infra: false })
}
