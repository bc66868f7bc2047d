import { type Document, isMap, isNode, LineCounter, parseDocument } from 'yaml'
import { KvitestError } from '../../native/error.ts'
import { DEFAULT_GUEST, durationAt, parseGuest } from './guest-request.ts'
import type { ScriptHeader } from './script.ts'
import { BadValue } from './value.ts'

const KEYS = ['guest', 'timeout', 'env', 'skip', 'skips', 'only']
const COMMENT = /^\s*(?:#|\/\/)(.*)$/
const KEY_LINE = /^ ?([A-Za-z]+):(?:\s+(.*))?$/
const DEFAULT_TIMEOUT = 120_000

/** One `# key: value` of the header; `text` may have several lines. */
interface Entry {
  key: string
  text: string
  /** 1-based line of the key. */
  line: number
}

/** Reads the header of a script. Throws a KvitestError that names `file:line`. */
export function parseHeader(text: string, file: string): ScriptHeader {
  const header: ScriptHeader = {
    guest: DEFAULT_GUEST,
    timeout: DEFAULT_TIMEOUT,
    env: {},
    skips: [],
    only: false,
    line: 1,
  }
  const seen = new Set<string>()
  for (const entry of entriesOf(text)) {
    const meant = KEYS.includes(entry.key) ? undefined : nearest(entry.key)
    if (meant) throw errorAt(file, entry.line, `unknown key '${entry.key}'; did you mean '${meant}'?`)
    if (seen.has(entry.key)) throw errorAt(file, entry.line, `a second '${entry.key}:' line`)
    seen.add(entry.key)
    apply(header, entry, file)
  }
  return header
}

function apply(header: ScriptHeader, entry: Entry, file: string): void {
  if (entry.key === 'only') {
    header.only = true
    return
  }
  if (entry.key === 'skip') {
    if (entry.text.trim() === '') throw errorAt(file, entry.line, "skip: say why, '# skip: reason'")
    header.skip = entry.text.trim()
    return
  }
  const lines = new LineCounter()
  const document = parseDocument(entry.text, { lineCounter: lines, prettyErrors: false })
  const broken = document.errors[0]
  if (broken) {
    const line = entry.line + lines.linePos(broken.pos[0]).line - 1
    throw errorAt(file, line, `${entry.key}: bad YAML: ${broken.message.split('\n')[0]}`)
  }
  const value: unknown = document.toJS()
  try {
    if (entry.key === 'guest') {
      header.guest = parseGuest(value)
      header.line = entry.line
    } else if (entry.key === 'timeout') {
      header.timeout = durationAt(value, [])
    } else if (entry.key === 'skips') {
      header.skips = parseSkips(value)
    } else {
      header.env = parseEnv(value)
    }
  } catch (error) {
    if (!(error instanceof BadValue)) throw error
    const offset = offsetOf(document, error.path)
    throw errorAt(file, entry.line + lines.linePos(offset).line - 1, error.message)
  }
}

function parseSkips(value: unknown): string[] {
  const isText = (one: unknown) => typeof one === 'string' && one.trim() !== ''
  if (Array.isArray(value) && value.length > 0 && value.every(isText)) return value
  throw new BadValue([], `skips: want a list of names of points, got ${JSON.stringify(value)}`)
}

function parseEnv(value: unknown): Record<string, string> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new BadValue([], `env: want { KEY: value }, got ${JSON.stringify(value)}`)
  }
  const env: Record<string, string> = {}
  for (const [key, one] of Object.entries(value)) {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(key)) throw new BadValue([key], `env: '${key}' is no variable name`)
    if (!['string', 'number', 'boolean'].includes(typeof one)) {
      throw new BadValue([key], `env: want text for ${key}, got ${JSON.stringify(one)}`)
    }
    env[key] = String(one)
  }
  return env
}

/** The `key:` comments before the first line that is neither comment nor blank. */
function entriesOf(text: string): Entry[] {
  const entries: Entry[] = []
  const lines = text.split('\n')
  for (const [at, line] of lines.entries()) {
    if (at === 0 && line.startsWith('#!')) continue
    if (line.trim() === '') continue
    const comment = COMMENT.exec(line.replace(/\r$/, ''))?.[1]
    if (comment === undefined) break
    const last = entries.at(-1)
    // Two blanks more than a comment needs: the block goes on.
    if (last && /^ {3}/.test(comment) && last.line + last.text.split('\n').length === at + 1) {
      last.text += `\n${comment}`
      continue
    }
    const [, key, value = ''] = KEY_LINE.exec(comment) ?? []
    if (comment.trim() === 'only') entries.push({ key: 'only', text: '', line: at + 1 })
    else if (key && nearest(key)) entries.push({ key, text: value, line: at + 1 })
  }
  return entries
}

/** The key meant by one that differs in case or a plural only; any other comment with a colon is prose. */
function nearest(key: string): string | undefined {
  const small = key.toLowerCase()
  return KEYS.find((known) => known === small) ?? KEYS.find((known) => known === small.replace(/s$/, ''))
}

function offsetOf(document: Document, path: (string | number)[]): number {
  for (let length = path.length; length > 0; length--) {
    const parent = document.getIn(path.slice(0, length - 1), true) ?? document.contents
    const key = path[length - 1]
    if (isMap(parent)) {
      const pair = parent.items.find((item) => isNode(item.key) && item.key.toJS(document) === key)
      if (pair && isNode(pair.key) && pair.key.range) return pair.key.range[0]
    }
    const node = document.getIn(path.slice(0, length), true)
    if (isNode(node) && node.range) return node.range[0]
  }
  return 0
}

function errorAt(file: string, line: number, message: string): KvitestError {
  return new KvitestError(`${file}:${line}`, message, {
    hint: 'docs/tap-scripts.md lists the header keys',
    infra: false,
  })
}
