/**
 * The one error a person of this project ever sees: a name, the operation, the errno, the place and what to do
 * next, on one line.
 */
export class KvitestError extends Error {
  override readonly name = 'KvitestError'
  /** errno name (`ENOENT`) or one of ours (`EINFRA`). */
  readonly code: string | undefined
  readonly operation: string
  readonly hint: string | undefined
  /** Our own fault or a missing artifact, never the kernel's under test. */
  readonly infra: boolean

  constructor(
    operation: string,
    detail: string,
    options: { code?: string | undefined; hint?: string | undefined; infra?: boolean; cause?: unknown } = {},
  ) {
    super(`${operation}: ${detail}${options.hint ? `; ${options.hint}` : ''}`, { cause: options.cause })
    this.operation = operation
    this.code = options.code
    this.hint = options.hint
    this.infra = options.infra ?? true
  }
}
