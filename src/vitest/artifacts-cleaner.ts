import { rm } from 'node:fs/promises'
import type { Reporter } from 'vitest/node'

/** Empties the directory of guests' files when a run starts: what lies there is always of the last run. */
export class ArtifactsCleaner implements Reporter {
  readonly #directory: string
  #isClean = false

  constructor(directory: string) {
    this.#directory = directory
  }

  async onTestRunStart(): Promise<void> {
    // In watch mode a second run is about some of the files only.
    if (this.#isClean) return
    this.#isClean = true
    await rm(this.#directory, { recursive: true, force: true }).catch((error: Error) => {
      process.stderr.write(`kvitest: empty ${this.#directory}: ${error.message}\n`)
    })
  }
}
