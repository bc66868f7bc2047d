/** Characters of output kept for one point: half from the beginning, half from the end. */
export const MAX_OUTPUT = 64 * 1024
const MAX_OUTPUT_LINE = 8 * 1024

/** The lines between two points, bounded: the head and the tail stay, the middle is counted. */
export class BoundedOutput {
  #head: string[] = []
  #headSize = 0
  #tail: string[] = []
  /** Index of the first tail line still kept; a shift per line would be quadratic. */
  #tailStart = 0
  #tailSize = 0
  #dropped = 0

  add(line: string): void {
    const kept =
      line.length > MAX_OUTPUT_LINE
        ? `${line.slice(0, MAX_OUTPUT_LINE)}... (${line.length} characters)`
        : line
    const size = kept.length + 1
    if (this.#dropped === 0 && this.#tail.length === 0 && this.#headSize + size <= MAX_OUTPUT / 2) {
      this.#head.push(kept)
      this.#headSize += size
      return
    }
    this.#tail.push(kept)
    this.#tailSize += size
    while (this.#tailSize > MAX_OUTPUT / 2 && this.#tailStart < this.#tail.length - 1) {
      this.#tailSize -= this.#tail[this.#tailStart]!.length + 1
      this.#tail[this.#tailStart] = ''
      this.#tailStart++
      this.#dropped++
    }
    if (this.#tailStart > 1024 && this.#tailStart * 2 > this.#tail.length) {
      this.#tail.splice(0, this.#tailStart)
      this.#tailStart = 0
    }
  }

  /** What was kept; begins anew. */
  take(): string[] {
    const gap = this.#dropped > 0 ? [`... ${this.#dropped} lines left out ...`] : []
    const lines = [...this.#head, ...gap, ...this.#tail.slice(this.#tailStart)]
    this.#head = []
    this.#headSize = 0
    this.#tail = []
    this.#tailStart = 0
    this.#tailSize = 0
    this.#dropped = 0
    return lines
  }
}
