/** One settled TAP assertion. Nested points carry the names of the subtests around them. */
export interface Point {
  /** Names of enclosing subtests, outermost first. */
  path: string[]
  /** The number printed, or the one implied by order. */
  id: number
  name: string
  result: 'pass' | 'fail' | 'skip' | 'todo' | 'todo-pass'
  /** The text after SKIP or TODO. */
  reason?: string
  /** The YAML diagnostic block, parsed; `expected`/`actual`/`found`/`wanted` make a diff. */
  diagnostic?: unknown
  /** Comment and non-TAP lines since the previous point. */
  output: string[]
  /** Milliseconds of host time at which it settled, as performance.now() gives. */
  settledAt: number
}

/** What the whole stream came to. */
export interface TapSummary {
  points: Point[]
  /** The plan, or undefined when none was printed. */
  plan: number | undefined
  /** `1..0 # SKIP reason` */
  skipAll?: string
  bailOut?: string
  /** Broken promises of the stream: no plan, wrong count, duplicate or out-of-order ids, garbage. One line each. */
  problems: string[]
}
