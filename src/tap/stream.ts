import { Parser, type Result } from 'tap-parser'
import { LevelTracker, type TapLine } from './level.ts'
import { type Line, LineSplitter, MAX_LINE } from './lines.ts'
import { BoundedOutput } from './output.ts'
import type { Point, TapSummary } from './types.ts'
import { YamlBlock } from './yaml-block.ts'

/** Points kept of one stream; a script that prints more is broken. */
export const MAX_POINTS = 100_000
const MAX_PROBLEMS = 100
/** Characters of one TAP line. */
const MAX_TAP_LINE = 8 * 1024
/** Milliseconds of quiet after which a passing point is announced although a YAML block might still follow it. */
const QUIET = 200
const KTAP_DIRECTIVE = /\s*#\s*(XFAIL|TIMEOUT|ERROR)\b:?\s*(.*)$/i

export interface TapStreamOptions {
  /** Called for every settled point, live. */
  onPoint?: ((point: Point) => void) | undefined
  /** A comment or a line that is no TAP. */
  onDiagnostic?: ((line: string) => void) | undefined
}

/** One open (sub)test: its parser and what our own accounting knows of it. */
interface Level {
  parser: Parser
  parent: Level | undefined
  /** Undefined while a subtest without a `# Subtest` line runs: the point after it names it. */
  name: string | undefined
  ids: Set<number>
  lastId: number
  points: number
  /** Points that wait for the name of this subtest. */
  held: { point: Point; level: Level }[]
}

/** What was read between a point's line and its result being known to the parser. */
interface Pending {
  ok: boolean
  settledAt: number
  output: string[]
  /** An opening brace: the result comes after the block. */
  buffered: boolean
  parser: Parser
}

/**
 * TAP 13, TAP 14 and KTAP as points, in linear time and bounded memory. tap-parser holds the grammar and the nesting;
 * around it stands what it leaves open: lines cut by ourselves, text that is no TAP kept from it, KTAP's indentation,
 * YAML parsed here without its custom tags (the output of a guest is not to be trusted), and the accounting.
 */
export class TapStream {
  readonly #options: TapStreamOptions
  readonly #lines = new LineSplitter((line) => this.#line(line))
  readonly #levels = new LevelTracker()
  readonly #root: Level
  readonly #open: Level[] = []
  readonly #output = new BoundedOutput()
  readonly #points: Point[] = []
  readonly #problems: string[] = []
  #moreProblems = 0
  #plan: number | undefined
  #skipAll: string | undefined
  #bailOut: string | undefined
  #pending: Pending | undefined
  #lastPoint: Point | undefined
  /** The line before was a point's, so `---` or `{` may follow. */
  #afterPoint = false
  #yaml: YamlBlock | undefined
  readonly #diagnostics: unknown[] = []
  #openBraces = 0
  #garbageLines = 0
  #pointLines = 0
  #pointsAfterBailOut = 0
  #droppedPoints = 0
  #summary: TapSummary | undefined
  #quiet: NodeJS.Timeout | undefined

  constructor(options: TapStreamOptions = {}) {
    this.#options = options
    this.#root = this.#follow(new Parser({ strict: false }), undefined, '')
  }

  write(chunk: Uint8Array | string): void {
    clearTimeout(this.#quiet)
    this.#lines.write(chunk)
    if (this.#options.onPoint && this.#mayFlush()) this.#quiet = setTimeout(() => this.flush(), QUIET).unref()
  }

  /**
   * Settles a passing point whose line was read though a YAML block might still follow it. Comes by itself when the
   * stream is quiet; what end() returns is the same with or without it.
   */
  flush(): void {
    if (this.#mayFlush()) this.#pending!.parser.emitResult()
  }

  /** Ends the stream. Idempotent. */
  end(): TapSummary {
    if (this.#summary) return this.#summary
    clearTimeout(this.#quiet)
    this.#lines.end()
    if (this.#yaml) this.#breakYaml()
    this.#root.parser.end()
    this.#finish()
    this.#summary = {
      points: this.#points,
      plan: this.#plan,
      problems: this.#problems,
      ...(this.#skipAll === undefined ? {} : { skipAll: this.#skipAll }),
      ...(this.#bailOut === undefined ? {} : { bailOut: this.#bailOut }),
    }
    return this.#summary
  }

  #mayFlush(): boolean {
    return this.#pending?.ok === true && !this.#pending.buffered && !this.#yaml
  }

  #line(line: Line): void {
    if (line.garbage && this.#garbageLines++ === 0) {
      this.#problem(`line ${line.number}: binary garbage (NUL bytes or invalid UTF-8)`)
    }
    if (line.truncated) {
      this.#problem(`line ${line.number}: ${line.bytes} bytes in one line, cut to ${MAX_LINE}`)
    }
    if (this.#yaml) {
      if (this.#yaml.isEnd(line.text)) {
        this.#endYaml()
        return
      }
      if (this.#yaml.add(line.text)) return
      this.#breakYaml()
    }
    if (line.text.trim() === '') return
    const tap = this.#levels.classify(line.text)
    if (tap) this.#tap(tap, line)
    else if (!this.#belowPoint(line.text)) this.#text(line.text)
  }

  #tap(tap: TapLine, line: Line): void {
    this.#afterPoint = false
    if (this.#bailOut !== undefined) {
      if (tap.type === 'point') this.#pointsAfterBailOut++
      this.#text(line.text)
      return
    }
    if (tap.type === 'version') return
    if (tap.type === 'point' && this.#pointLines >= MAX_POINTS) {
      this.#droppedPoints++
      return
    }
    const cut = tap.text.length > MAX_TAP_LINE
    if (cut)
      this.#problem(
        `line ${line.number}: a TAP line of ${tap.text.length} characters, cut to ${MAX_TAP_LINE}`,
      )
    const text = cut ? tap.text.slice(0, MAX_TAP_LINE) : tap.text
    const settledAt = performance.now()
    const output = tap.type === 'point' ? this.#output.take() : []
    this.#feed(tap.level, text)
    if (tap.type !== 'point') return
    this.#pointLines++
    const buffered = text.endsWith('{')
    if (buffered) this.#openBraces++
    this.#afterPoint = true
    this.#pending = {
      ok: text.startsWith('ok'),
      settledAt,
      output,
      buffered,
      parser: this.#innermost().parser,
    }
  }

  /** `---`, `{` or the `}` of a block; false for anything else. */
  #belowPoint(text: string): boolean {
    const indent = text.length - text.trimStart().length
    const bare = text.trim()
    if (bare === '---' && indent > 0 && this.#afterPoint) {
      this.#yaml = new YamlBlock(text.slice(0, indent))
      return true
    }
    const level = this.#levels.peek(indent)
    if (level === undefined) return false
    if (bare === '{' && this.#afterPoint && this.#pending) {
      this.#openBraces++
      this.#pending.buffered = true
      this.#feed(level, '{')
      return true
    }
    if (bare === '}' && this.#openBraces > 0) {
      this.#openBraces--
      this.#feed(level, '}')
      return true
    }
    return false
  }

  #text(text: string): void {
    // No YAML can follow any more, so the point before is settled now and not when the next one comes.
    if (this.#afterPoint && this.#pending && !this.#pending.buffered) this.#pending.parser.emitResult()
    this.#afterPoint = false
    this.#output.add(text)
    this.#options.onDiagnostic?.(text)
  }

  #endYaml(): void {
    const value = this.#yaml!.value()
    this.#yaml = undefined
    if (!this.#pending) {
      if (this.#lastPoint) this.#lastPoint.diagnostic = value
      return
    }
    // tap-parser sees only a ticket for the value: it knows best which point the block belongs to.
    const ticket = this.#diagnostics.push(value) - 1
    const level = this.#open.indexOf(this.#innermost())
    this.#feed(level, '  ---')
    this.#feed(level, `  kvitest: ${ticket}`)
    this.#feed(level, '  ...')
  }

  #breakYaml(): void {
    const block = this.#yaml!
    this.#yaml = undefined
    this.#problem("a YAML block without its end '...'")
    this.#text(`${block.indent}---`)
    for (const line of block.lines()) this.#text(line)
  }

  #feed(level: number, text: string): void {
    this.#root.parser.write(`${'    '.repeat(level)}${text}\n`)
  }

  #innermost(): Level {
    return this.#open.at(-1)!
  }

  #follow(parser: Parser, parent: Level | undefined, name: string | undefined): Level {
    const level: Level = { parser, parent, name, ids: new Set(), lastId: 0, points: 0, held: [] }
    this.#open.push(level)
    parser.on('child', (child: Parser) => {
      // A block in braces is named by the point that opened it.
      this.#follow(child, level, child.name || child.closingTestPoint?.name || undefined)
    })
    parser.on('assert', (result: Result) => this.#assert(level, result))
    parser.on('plan', (plan: { start: number; end: number; comment: string }) => {
      if (parent) return
      this.#plan = Math.max(0, plan.end - plan.start + 1)
      // tap-parser makes up a plan for an empty stream.
      if (this.#plan === 0 && !parser.syntheticPlan) this.#skip(plan.comment)
      if (parser.syntheticPlan) this.#plan = undefined
    })
    parser.on('bailout', (reason: string) => {
      this.#bailOut ??= reason.trim() || 'no reason given'
    })
    parser.on('complete', () => this.#complete(level))
    if (!parent) {
      parser.on('extra', (text: string) => {
        this.#problem(`a TAP line where none may stand: ${JSON.stringify(text.trim().slice(0, 200))}`)
      })
    }
    return level
  }

  #assert(level: Level, result: Result): void {
    const pending = this.#pending
    this.#pending = undefined
    level.points++
    const due = level.lastId + 1
    const id = result.id || due
    if (level.ids.has(id)) this.#problem(`${place(level)}point ${id} came more than once`)
    else if (id !== due) this.#problem(`${place(level)}point ${id} came where ${due} was due`)
    level.ids.add(id)
    level.lastId = id
    const point: Point = {
      path: [],
      id,
      ...outcome(result),
      output: pending?.output ?? [],
      settledAt: pending?.settledAt ?? performance.now(),
    }
    const ticket = (result.diag as { kvitest?: number } | null)?.kvitest
    if (ticket !== undefined) point.diagnostic = this.#diagnostics[ticket]
    this.#deliver(point, level)
    this.#lastPoint = point
  }

  /** Emits the point, or lets it wait for the name of an enclosing subtest. */
  #deliver(point: Point, from: Level): void {
    const path: string[] = []
    let waits: Level | undefined
    for (let level: Level | undefined = from; level?.parent; level = level.parent) {
      if (level.name === undefined) waits = level
      path.unshift(level.name ?? '')
    }
    if (waits) {
      waits.held.push({ point, level: from })
      return
    }
    point.path = path
    this.#points.push(point)
    this.#options.onPoint?.(point)
  }

  /** `1..0`; without a reason it would be a way to pass without a test. */
  #skip(comment: string): void {
    const reason = /^skip\S*\s+(\S.*)$/i.exec(comment.trim())?.[1]
    if (reason === undefined) this.#problem("a plan of 0 points without a reason: want '1..0 # SKIP reason'")
    this.#skipAll = reason ?? 'no reason given'
  }

  #complete(level: Level): void {
    const { parser } = level
    if (level.parent) {
      this.#open.splice(this.#open.indexOf(level))
      level.name ??= parser.closingTestPoint?.name || 'subtest'
      for (const held of level.held.splice(0)) this.#deliver(held.point, held.level)
    }
    if (this.#bailOut !== undefined || parser.bailedOut) return
    if (parser.syntheticPlan) {
      this.#problem(`${place(level)}no plan and no points`)
    } else if (parser.planStart === -1) {
      this.#problem(`${place(level)}no plan: the script ended without '1..N' (done_testing)`)
    } else {
      const planned = Math.max(0, parser.planEnd - parser.planStart + 1)
      if (planned !== level.points && this.#droppedPoints === 0) {
        this.#problem(`${place(level)}planned ${count(planned)}, saw ${level.points}`)
      }
    }
  }

  #finish(): void {
    if (this.#garbageLines > 1) this.#problem(`${this.#garbageLines} lines with binary garbage in all`)
    if (this.#pointsAfterBailOut > 0) this.#problem(`${count(this.#pointsAfterBailOut)} after the bail-out`)
    if (this.#droppedPoints > 0) {
      this.#problem(`more than ${MAX_POINTS} points: ${this.#droppedPoints} dropped`)
    }
    if (this.#moreProblems > 0) this.#problems.push(`and ${this.#moreProblems} more problems`)
  }

  #problem(text: string): void {
    if (this.#problems.length < MAX_PROBLEMS) this.#problems.push(text)
    else this.#moreProblems++
  }
}

function count(points: number): string {
  return points === 1 ? '1 point' : `${points} points`
}

function place(level: Level): string {
  const names: string[] = []
  for (let at: Level | undefined = level; at?.parent; at = at.parent) names.unshift(at.name ?? 'subtest')
  return names.length > 0 ? `in subtest "${names.join(' > ')}": ` : ''
}

function outcome(result: Result): Pick<Point, 'name' | 'result'> & { reason?: string } {
  const reason = (text: string | boolean) => (typeof text === 'string' && text ? { reason: text } : {})
  if (result.skip) return { name: result.name, result: 'skip', ...reason(result.skip) }
  if (result.todo) {
    return { name: result.name, result: result.ok ? 'todo-pass' : 'todo', ...reason(result.todo) }
  }
  const ktap = KTAP_DIRECTIVE.exec(result.name)
  const name = ktap ? result.name.slice(0, ktap.index) : result.name
  if (ktap?.[1]?.toUpperCase() === 'XFAIL') {
    return { name, result: result.ok ? 'todo-pass' : 'todo', ...reason(ktap[2]!) }
  }
  const why = ktap ? reason([ktap[1]!, ktap[2]!].filter(Boolean).join(' ')) : {}
  return { name, result: result.ok ? 'pass' : 'fail', ...why }
}
