import type { HostMachine } from '../host/machine-host.ts'
import { KvitestError } from '../native/error.ts'
import type { GuestPort } from './types.ts'

/**
 * The host's end of one named virtio-console port. What nobody reads is held here up to the window that the
 * device grants (256 KiB), and then holds the guest's writer back.
 */
export class MachinePort implements GuestPort {
  readonly name: string
  readonly #machine: () => HostMachine
  #queue: Uint8Array[] = []
  #open = false
  #ended: string | undefined
  #changed = Promise.withResolvers<void>()

  constructor(name: string, machine: () => HostMachine) {
    this.name = name
    this.#machine = machine
  }

  get open(): boolean {
    return this.#open
  }

  write(data: Uint8Array | string): Promise<void> {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data
    return this.#live().write(this.name, bytes)
  }

  /** Ends when the machine does; another iterator goes on where the last one stopped. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    for (;;) {
      const data = this.#queue.shift()
      if (data) {
        // Taken when the reader asks: until then it counts against the guest's window.
        if (this.#ended === undefined) this.#machine().consumed(this.name, data.byteLength)
        yield data
      } else if (this.#ended !== undefined) {
        return
      } else {
        await this.#changed.promise
      }
    }
  }

  async setOpen(open: boolean): Promise<void> {
    await this.#live().setPortOpen(this.name, open)
  }

  async resize(columns: number, rows: number): Promise<void> {
    await this.#live().resize(this.name, columns, rows)
  }

  async whenOpen(open = true): Promise<void> {
    while (this.#open !== open) {
      this.#live()
      await this.#changed.promise
    }
  }

  /** From the machine: bytes the guest wrote. */
  receive(data: Uint8Array): void {
    this.#queue.push(data)
    this.#wake()
  }

  /** From the machine: the guest opened or closed its end. */
  guestOpened(open: boolean): void {
    this.#open = open
    this.#wake()
  }

  /** The guest went back to its checkpoint: what it wrote since was never written. */
  reset(open: boolean): void {
    this.#queue = []
    this.guestOpened(open)
  }

  /** The machine has ended; what is queued can still be read. */
  end(reason: string): void {
    this.#ended = reason
    this.#open = false
    this.#wake()
  }

  #live(): HostMachine {
    if (this.#ended === undefined) return this.#machine()
    throw new KvitestError(`port ${this.name}`, `the guest has ended (${this.#ended})`, {
      code: 'EPIPE',
      infra: false,
    })
  }

  #wake(): void {
    this.#changed.resolve()
    this.#changed = Promise.withResolvers<void>()
  }
}

/** The port of that name; throws ENOENT with those that the guest has. */
export function findPort(ports: ReadonlyMap<string, MachinePort>, name: string, guest: string): MachinePort {
  const port = ports.get(name)
  if (port) return port
  const known = [...ports.keys()].join(', ') || 'none'
  throw new KvitestError(`port ${name}`, `${guest} has no such port (it has: ${known})`, {
    code: 'ENOENT',
    hint: 'name it in the ports of a virtio-console device',
    infra: false,
  })
}
