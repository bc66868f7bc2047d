import { beginsSplat } from '../verdict/splat.ts'

/** Reports, lines of each, and characters of all that are kept. */
const maxReports = 100
const maxLines = 300
const maxCharacters = 4 * 1024 * 1024

/**
 * The kernel's reports in a console too long to be kept whole: a guest must not hide a splat behind output. It sees
 * every line and keeps those of reports.
 */
export class ReportKeeper {
  readonly #kept: { at: number; line: string }[] = []
  #characters = 0
  #reports = 0
  /** Lines that the report in hand may still have. */
  #open = 0

  /** `at`: bytes that the console had shown before this line, at least. */
  see(line: string, at: number): void {
    if (beginsSplat(line) && this.#reports < maxReports) {
      this.#reports++
      this.#open = maxLines
    }
    if (this.#open === 0 || this.#characters + line.length > maxCharacters) return
    this.#open--
    this.#characters += line.length
    this.#kept.push({ at, line })
  }

  /** The lines kept of the console's first `bytes`. */
  before(bytes: number): string[] {
    return this.#kept.filter(({ at }) => at < bytes).map(({ line }) => line)
  }
}
