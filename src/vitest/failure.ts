import { stringify } from 'yaml'
import type { Point } from '../tap/types.ts'
import { boundText } from './bounded-text.ts'

const EXPECTED = ['expected', 'wanted', 'want']
const ACTUAL = ['actual', 'found', 'got', 'received']
const MAX_VALUE = 16 * 1024
const OUTPUT_LINES = 40

/** The name of a failure that says nothing about the guest: no entry of an `*.expect.yaml` excuses it. */
export const NOTHING_PROVEN = 'NothingProven'

/** Where in a script something belongs. */
export interface Place {
  file: string
  line: number
}

/** A failure that vitest shows at the script's line, with a diff when it carries both values. */
export class ScriptFailure extends Error {
  override readonly name: string
  readonly showDiff: boolean = false
  readonly expected?: unknown
  readonly actual?: unknown

  constructor(
    message: string,
    place: Place,
    options: { values?: { expected: unknown; actual: unknown } | undefined; isExcusable?: boolean } = {},
  ) {
    const { values, isExcusable = true } = options
    super(message)
    this.name = isExcusable ? 'ScriptFailure' : NOTHING_PROVEN
    this.stack = `${this.name}: ${message}\n    at ${place.file}:${place.line}:1`
    if (values) {
      this.showDiff = true
      this.expected = values.expected
      this.actual = values.actual
    }
  }
}

/** A point that was not ok; `hints` are the last lines of the message. */
export function pointFailure(point: Point, place: Place, hints: string[] = []): ScriptFailure {
  const diagnostic = asRecord(point.diagnostic)
  const expected = EXPECTED.find((key) => key in diagnostic)
  const actual = ACTUAL.find((key) => key in diagnostic)
  const values =
    expected !== undefined && actual !== undefined
      ? { expected: bounded(diagnostic[expected]), actual: bounded(diagnostic[actual]) }
      : undefined
  const rest = Object.fromEntries(
    Object.entries(diagnostic).filter(([key]) => !values || (key !== expected && key !== actual)),
  )
  const lines = [`not ok ${point.id} - ${point.name}${point.reason ? ` (${point.reason})` : ''}`]
  if (Object.keys(rest).length > 0) lines.push(boundText(stringify(rest).trimEnd(), MAX_VALUE))
  else if (typeof point.diagnostic === 'string') lines.push(boundText(point.diagnostic, MAX_VALUE))
  lines.push(...point.output.slice(-OUTPUT_LINES), ...hints)
  return new ScriptFailure(lines.join('\n'), place, { values })
}

function asRecord(value: unknown): Record<string, unknown> {
  const plain = typeof value === 'object' && value !== null && !Array.isArray(value)
  return plain ? (value as Record<string, unknown>) : {}
}

function bounded(value: unknown): unknown {
  return typeof value === 'string' ? boundText(value, MAX_VALUE) : value
}
