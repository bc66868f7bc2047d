/** The end of a text that grows without bound: what a lab's console said last. */
export class ConsoleTail {
  readonly #limit: number
  #text = ''

  constructor(limit = 64 << 10) {
    this.#limit = limit
  }

  write(chunk: Uint8Array): void {
    this.#text += Buffer.from(chunk).toString('latin1')
    if (this.#text.length > 2 * this.#limit) this.#text = this.#text.slice(-this.#limit)
  }

  text(): string {
    return this.#text.slice(-this.#limit)
  }

  /** The last lines that say something, on one line, without the terminal's escapes. */
  summary(lines = 12): string {
    const said = this.text()
      // biome-ignore lint/suspicious/noControlCharactersInRegex: a console is full of them
      .replace(/\x1b\[[0-9;?]*[A-Za-z]|\x1bc|[\x00-\x09\x0b-\x1f]/g, '')
      .split('\n')
      .map((line) => line.trim())
      .filter((line) => line !== '')
    return said.length === 0 ? 'its console is empty' : `its console ends: ${said.slice(-lines).join(' | ')}`
  }
}
