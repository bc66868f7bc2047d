import { KvitestError } from '../native/error.ts'

/** Work of one guest that nothing of its kind may come between: checkpoints and resets. */
export class Exclusive {
  readonly #guest: string
  #isBusy = false

  /** Name of the guest, for errors. */
  constructor(guest: string) {
    this.#guest = guest
  }

  /** Rejects with EBUSY while other work is being done. */
  async run<T>(operation: string, work: () => Promise<T>): Promise<T> {
    if (this.#isBusy) {
      throw new KvitestError(operation, `${this.#guest}: a checkpoint or a reset is being made`, {
        code: 'EBUSY',
        hint: 'wait for the first one',
        infra: false,
      })
    }
    this.#isBusy = true
    try {
      return await work()
    } finally {
      this.#isBusy = false
    }
  }
}
