import { parse } from 'yaml'

/** Characters of one YAML diagnostic block; more is cut off and the block is shown as text. */
export const MAX_YAML = 256 * 1024

/** The lines between `---` and `...` below a point. */
export class YamlBlock {
  /** The blanks before `---`. */
  readonly indent: string
  #lines: string[] = []
  #size = 0
  #oversized = false

  constructor(indent: string) {
    this.indent = indent
  }

  isEnd(line: string): boolean {
    return line.trimEnd() === `${this.indent}...`
  }

  /** False when the line cannot belong to the block: its indentation is gone. */
  add(line: string): boolean {
    if (line.trim() !== '' && !line.startsWith(this.indent)) return false
    this.#size += line.length + 1
    if (this.#size > MAX_YAML) this.#oversized = true
    else this.#lines.push(line.slice(this.indent.length))
    return true
  }

  /** The block as a value; as its text when it is not YAML. */
  value(): unknown {
    const text = this.#lines.join('\n')
    if (this.#oversized) return `${text}\n... cut at ${MAX_YAML} characters`
    try {
      return parse(text, { logLevel: 'error', maxAliasCount: 100 })
    } catch {
      return text
    }
  }

  lines(): string[] {
    return this.#lines.map((line) => this.indent + line)
  }
}
