import { lineTypes } from 'tap-parser'

/** Subtests deeper than this are not followed: their lines count as output. */
export const MAX_DEPTH = 16

export type TapLineType = 'point' | 'plan' | 'bailout' | 'version' | 'subtest'

export interface TapLine {
  type: TapLineType
  /** 0 is the outermost. */
  level: number
  /** The line without its indentation. */
  text: string
}

const KTAP_VERSION = /^K?TAP version \d+$/i

/**
 * Tells TAP from other text and finds how deep a line stands. TAP 14 indents subtests by four blanks; KTAP by two
 * (kernel documentation, dev-tools/ktap.rst) though KUnit prints four: so in a KTAP stream the first line of a
 * subtest says how much, and lines that fit no open level are no TAP.
 */
export class LevelTracker {
  /** Blanks before the lines of each open level. */
  readonly #indents = [0]
  #ktap = false

  classify(line: string): TapLine | undefined {
    const text = line.replace(/^ +/, '')
    const type = typeOf(text)
    if (!type) return undefined
    if (type === 'version' && /^ktap/i.test(text)) this.#ktap = true
    const level = this.#levelOf(line.length - text.length)
    return level === undefined ? undefined : { type, level, text }
  }

  /** The level of a `{`, `}` or YAML line with this many blanks, no level being opened by it. */
  peek(indent: number): number | undefined {
    const level = this.#indents.indexOf(indent)
    return level < 0 ? undefined : level
  }

  #levelOf(indent: number): number | undefined {
    const known = this.#indents.indexOf(indent)
    if (known >= 0) {
      this.#indents.length = known + 1
      return known
    }
    const step = indent - this.#indents.at(-1)!
    if (step !== 4 && !(this.#ktap && step === 2)) return undefined
    if (this.#indents.length > MAX_DEPTH) return undefined
    this.#indents.push(indent)
    return this.#indents.length - 1
  }
}

function typeOf(text: string): TapLineType | undefined {
  const line = `${text}\n`
  if (lineTypes.testPoint.test(line)) return 'point'
  if (lineTypes.plan.test(line)) return 'plan'
  if (lineTypes.bailout.test(line)) return 'bailout'
  if (KTAP_VERSION.test(text)) return 'version'
  if (lineTypes.subtest.test(line)) return 'subtest'
  return undefined
}
