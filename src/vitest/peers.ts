import { createHash } from 'node:crypto'
import type { Duplex } from 'node:stream'
import type { Guest, GuestPort } from '../guest/types.ts'
import type { DeviceSpec } from '../native/contract.ts'
import { ByteReader } from './byte-reader.ts'
import type { Peer, ScriptPort } from './transform/script.ts'

/** What one peer has to work with; docs/tap-scripts.md says what each does. */
interface Line {
  guest: Guest
  port: GuestPort
  reader: ByteReader
  /** The port NAME.control and its reader, for the peers that have one. */
  control: { port: GuestPort; reader: ByteReader } | undefined
}

/** Milliseconds a `wait` command of the peer `door` takes at most. */
const WAIT_LIMIT = 10_000
const SOURCE_BLOCK = 32
const SOURCE_BATCH = 2048

const PEER: Record<Peer, (line: Line) => Promise<void>> = {
  sink: async ({ reader }) => {
    while (await reader.read());
  },
  echo: echoBytes,
  sha256: async ({ port, reader }) => {
    for (let line = await reader.line(); line !== undefined; line = await reader.line()) {
      const length = wholeNumber(line)
      if (length === undefined) {
        await port.write(`error: want LENGTH, got ${JSON.stringify(line.slice(0, 100))}\n`)
        continue
      }
      const hash = createHash('sha256')
      if (!(await reader.each(length, (bytes) => hash.update(bytes)))) return
      await port.write(`${hash.digest('hex')}\n`)
    }
  },
  source: async ({ port, reader }) => {
    for (let line = await reader.line(); line !== undefined; line = await reader.line()) {
      const [text = '', seed] = line.split(' ')
      const length = wholeNumber(text)
      if (length === undefined || seed === undefined) {
        await port.write(`error: want LENGTH SEED, got ${JSON.stringify(line.slice(0, 100))}\n`)
        continue
      }
      const hash = createHash('sha256')
      for (const bytes of sourceBytes(length, seed)) hash.update(bytes)
      await port.write(`${hash.digest('hex')}\n`)
      for (const bytes of sourceBytes(length, seed)) await port.write(bytes)
    }
  },
  count: async ({ port, reader }) => {
    let total = 0
    let line = new CountedLine()
    for (let chunk = await reader.read(); chunk; chunk = await reader.read()) {
      let start = 0
      for (let end = chunk.indexOf(0x0a); end >= 0; end = chunk.indexOf(0x0a, start)) {
        line.add(chunk.subarray(start, end))
        if (line.isQuery()) {
          await port.write(`${total}\n`)
          total = 0
        } else {
          total += line.bytes + 1
        }
        line = new CountedLine()
        start = end + 1
      }
      line.add(chunk.subarray(start))
    }
  },
  hold: async ({ reader, control }) => {
    await commands(control!, async (command, argument) => {
      const count = wholeNumber(argument)
      if (command !== 'take' || count === undefined) return undefined
      const hash = createHash('sha256')
      const whole = await reader.each(count, (bytes) => hash.update(bytes))
      return whole ? `${count} ${hash.digest('hex')}` : 'error: the port ended before'
    })
  },
  door: async ({ port, reader, control }) => {
    const echo = echoBytes({ port, reader })
    await commands(control!, async (command, argument) => {
      if (command === 'close' || command === 'open') {
        await port.setOpen(command === 'open')
        return command === 'open' ? 'opened' : 'closed'
      }
      if (command === 'wait' && (argument === 'open' || argument === 'closed')) {
        return await Promise.race([port.whenOpen(argument === 'open').then(() => argument), timeout()])
      }
      return undefined
    })
    await echo
  },
  machine: ({ guest, port, reader }) =>
    commands({ port, reader }, async (command, argument) => {
      const [device = '', state] = argument.split(' ')
      if (command === 'memory' && argument === '') return `${await guest.privateMemory()}`
      if (command === 'balloon') return await askBalloon(guest, device, state)
      if (command === 'scsi') return await changeUnits(guest, device, argument.split(' ').slice(1))
      if (command === 'disk') return await digestOfDisk(guest, device, argument.split(' ').slice(1))
      if (command === 'connect') return await callGuest(guest, device, Number(state))
      if (command !== 'link' || (state !== 'up' && state !== 'down')) return undefined
      await guest.setLink(device, state === 'up')
      return state
    }),
  terminal: async ({ port, reader, control }) => {
    await commands(control!, async (command, argument) => {
      if (command === 'resize') {
        const [columns, rows] = argument.split(' ').map(wholeNumber)
        if (columns === undefined || rows === undefined) return undefined
        await port.resize(columns, rows)
        return 'resized'
      }
      if (command === 'type') {
        await port.write(`${argument}\n`)
        return 'typed'
      }
      return command === 'line' ? ((await reader.line()) ?? 'error: the console ended') : undefined
    })
  },
}

/** Sets a balloon's target and answers with what it has then; without a number only that. */
async function askBalloon(guest: Guest, name: string, target?: string): Promise<string | undefined> {
  const balloon = guest.balloon(name)
  const bytes = target === undefined ? undefined : wholeNumber(target)
  if (target === 'statistics') await balloon.statistics()
  else if (target === 'hints') await balloon.hints()
  else if (bytes !== undefined) await balloon.setTarget(bytes)
  else if (target !== undefined) return undefined
  const { statistics, ...numbers } = await balloon.report()
  const named = Object.entries(statistics).map(([tag, value]) => `stat${tag}=${value}`)
  return [...Object.entries(numbers).map(([key, value]) => `${key}=${value}`), ...named].join(' ')
}

/** Attaches, detaches or resizes a logical unit, or tells the digest of some of its bytes. */
async function changeUnits(guest: Guest, device: string, words: string[]): Promise<string | undefined> {
  const [verb, name = '', ...numbers] = words
  const [first, second] = numbers.map(wholeNumber)
  const scsi = guest.scsi(device)
  if (verb === 'attach' && first !== undefined && second !== undefined) {
    await scsi.attach({ name, lun: first, memory: second })
    return 'attached'
  }
  if (verb === 'detach') {
    await scsi.detach(name)
    return 'detached'
  }
  if (verb === 'resize' && first !== undefined) {
    await scsi.disk(name).resize(first)
    return 'resized'
  }
  if (verb !== 'digest' || first === undefined || second === undefined) return undefined
  return await scsi.disk(name).sha256(first, second)
}

/** The digest of some of a disk's bytes, as the host has them. */
async function digestOfDisk(guest: Guest, name: string, words: string[]): Promise<string | undefined> {
  const [offset, length] = words.slice(1).map(wholeNumber)
  if (words[0] !== 'digest' || offset === undefined || length === undefined) return undefined
  return await guest.disk(name).sha256(offset, length)
}

/** Connects to a port of the guest's vsock and echoes there. */
async function callGuest(guest: Guest, device: string, port: number): Promise<string> {
  const socket = await guest.vsock(device).connect(port)
  socket.on('error', () => undefined)
  socket.pipe(socket)
  return 'connected'
}

/** Echoes on port 7 of every vsock, and takes all on port 9, until the guest's end. */
export async function serveVsocks(guest: Guest, devices: readonly DeviceSpec[]): Promise<void> {
  const names = devices.flatMap((device) => (device.type === 'virtio-vsock' ? [device.name] : []))
  for (const name of names) {
    const serve = (port: number, use: (socket: Duplex) => void) =>
      guest.vsock(name).listen(port, (socket) => {
        // The guest's own end, or that of the connection: its verdict tells of it.
        socket.on('error', () => undefined)
        use(socket)
      })
    await serve(7, (socket) => socket.pipe(socket))
    await serve(9, (socket) => socket.resume().once('end', () => socket.end()))
  }
}

/** Serves every port of a guest until close() or the guest's end. */
export function servePeers(guest: Guest, ports: ScriptPort[]): { close(): Promise<void> } {
  const lines = ports.map((spec) => {
    const port = guest.port(spec.name)
    const controlled = ['hold', 'door', 'terminal'].includes(spec.peer)
    const control = controlled ? guest.port(`${spec.name}.control`) : undefined
    const line: Line = {
      guest,
      port,
      reader: new ByteReader(port),
      control: control && { port: control, reader: new ByteReader(control) },
    }
    // A guest that ends takes its ports with it: the guest's verdict tells of it, not the peer.
    const serving = PEER[spec.peer](line).catch(() => undefined)
    return { line, serving }
  })
  return {
    async close() {
      for (const { line } of lines) {
        void line.reader.close().catch(() => undefined)
        void line.control?.reader.close().catch(() => undefined)
      }
    },
  }
}

/** The bytes of the peer `source`: the SHA-256 of `SEED:0`, `SEED:1`, ... one after the other. */
export function* sourceBytes(length: number, seed: string): Generator<Uint8Array> {
  for (let done = 0, block = 0; done < length; ) {
    const blocks: Buffer[] = []
    for (let size = 0; blocks.length < SOURCE_BATCH && done + size < length; size += SOURCE_BLOCK) {
      blocks.push(createHash('sha256').update(`${seed}:${block++}`).digest())
    }
    const batch = Buffer.concat(blocks).subarray(0, length - done)
    done += batch.length
    yield batch
  }
}

async function echoBytes({ port, reader }: Pick<Line, 'port' | 'reader'>): Promise<void> {
  for (let bytes = await reader.read(); bytes; bytes = await reader.read()) await port.write(bytes)
}

async function commands(
  { port, reader }: NonNullable<Line['control']>,
  answer: (command: string, argument: string) => Promise<string | undefined>,
): Promise<void> {
  for (let line = await reader.line(); line !== undefined; line = await reader.line()) {
    const [command = '', ...rest] = line.split(' ')
    const text = await answer(command, rest.join(' ')).catch((error: Error) => `error: ${error.message}`)
    await port.write(`${text ?? `error: unknown command ${JSON.stringify(line.slice(0, 100))}`}\n`)
  }
}

/** How long a line is so far and whether it may still be the query `?`; keeps none of its bytes. */
class CountedLine {
  bytes = 0
  #first: number | undefined

  add(part: Uint8Array): void {
    if (this.bytes === 0) this.#first = part[0]
    this.bytes += part.length
  }

  isQuery(): boolean {
    return this.bytes === 1 && this.#first === 0x3f
  }
}

function wholeNumber(text: string): number | undefined {
  return /^\d{1,15}$/.test(text) ? Number(text) : undefined
}

function timeout(): Promise<string> {
  return new Promise((resolve) => setTimeout(() => resolve('timeout'), WAIT_LIMIT).unref())
}
