import { createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import type { Guest, GuestPort } from '../guest/types.ts'
import { servePeers, sourceBytes } from './peers.ts'
import type { Peer, ScriptPort } from './transform/script.ts'

/** The host's end of a port whose guest is the test itself. */
class TestPort implements GuestPort {
  readonly name: string
  readonly sizes: [number, number][] = []
  readonly openings: boolean[] = []
  open = false
  /** Chunks that the host took so far. */
  taken = 0
  #fromGuest: Uint8Array[] = []
  #toGuest = Buffer.alloc(0)
  #wake = Promise.withResolvers<void>()

  constructor(name: string) {
    this.name = name
  }

  guestWrites(data: Uint8Array | string): void {
    this.#fromGuest.push(typeof data === 'string' ? Buffer.from(data) : data)
    this.#changed()
  }

  guestOpens(open: boolean): void {
    this.open = open
    this.#changed()
  }

  async guestReads(bytes: number): Promise<Buffer> {
    while (this.#toGuest.length < bytes) await this.#wake.promise
    const read = this.#toGuest.subarray(0, bytes)
    this.#toGuest = this.#toGuest.subarray(bytes)
    return read
  }

  async guestReadsLine(): Promise<string> {
    for (;;) {
      const end = this.#toGuest.indexOf('\n')
      if (end >= 0) return (await this.guestReads(end + 1)).toString().slice(0, -1)
      await this.#wake.promise
    }
  }

  async write(data: Uint8Array | string): Promise<void> {
    this.#toGuest = Buffer.concat([this.#toGuest, Buffer.from(data as Uint8Array)])
    this.#changed()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    for (;;) {
      const chunk = this.#fromGuest.shift()
      if (chunk) {
        this.taken++
        yield chunk
      } else {
        await this.#wake.promise
      }
    }
  }

  async setOpen(open: boolean): Promise<void> {
    this.openings.push(open)
  }

  async resize(columns: number, rows: number): Promise<void> {
    this.sizes.push([columns, rows])
  }

  async whenOpen(open = true): Promise<void> {
    while (this.open !== open) await this.#wake.promise
  }

  #changed(): void {
    this.#wake.resolve()
    this.#wake = Promise.withResolvers<void>()
  }
}

function serve(peer: Peer): { port: TestPort; control: TestPort } {
  const ports = { p: new TestPort('p'), 'p.control': new TestPort('p.control') }
  const guest = { port: (name: keyof typeof ports) => ports[name] } as unknown as Guest
  const spec: ScriptPort = { name: 'p', peer, console: peer === 'terminal' }
  servePeers(guest, [spec])
  return { port: ports.p, control: ports['p.control'] }
}

function digest(data: Uint8Array | string): string {
  return createHash('sha256').update(data).digest('hex')
}

test('echo returns every byte in order', async () => {
  const { port } = serve('echo')
  port.guestWrites('ab')
  port.guestWrites(new Uint8Array([0, 255]))
  expect([...(await port.guestReads(4))]).toEqual([0x61, 0x62, 0, 255])
})

test('sha256 answers the digest of counted bytes, again and again, and names a bad request', async () => {
  const { port } = serve('sha256')
  port.guestWrites('5\nhel')
  port.guestWrites('lo3\nabc')
  expect(await port.guestReadsLine()).toBe(digest('hello'))
  expect(await port.guestReadsLine()).toBe(digest('abc'))
  port.guestWrites('x\n')
  expect(await port.guestReadsLine()).toBe('error: want LENGTH, got "x"')
})

test('source sends the digest and the bytes of its seed', async () => {
  const { port } = serve('source')
  port.guestWrites('100000 seed\n')
  const announced = await port.guestReadsLine()
  const bytes = await port.guestReads(100_000)
  expect(digest(bytes)).toBe(announced)
  expect(bytes.subarray(0, 32)).toEqual(createHash('sha256').update('seed:0').digest())
})

test('the bytes of a shorter source are the beginning of those of a longer one', () => {
  const short = Buffer.concat([...sourceBytes(70_001, 's')])
  const long = Buffer.concat([...sourceBytes(200_000, 's')])
  expect(short.length).toBe(70_001)
  expect(long.subarray(0, 70_001).equals(short)).toBe(true)
})

test('count answers the bytes since the last answer, however they were cut', async () => {
  const { port } = serve('count')
  port.guestWrites('abc\nde')
  port.guestWrites('f\n?')
  port.guestWrites('\n??\n?\n?\n')
  expect(await port.guestReadsLine()).toBe('8')
  expect(await port.guestReadsLine()).toBe('3')
  expect(await port.guestReadsLine()).toBe('0')
})

test('hold takes nothing before it is told, and then exactly as much', async () => {
  const { port, control } = serve('hold')
  port.guestWrites('0123456789')
  control.guestWrites('nonsense\n')
  expect(await control.guestReadsLine()).toBe('error: unknown command "nonsense"')
  expect(port.taken).toBe(0)
  control.guestWrites('take 4\n')
  expect(await control.guestReadsLine()).toBe(`4 ${digest('0123')}`)
  control.guestWrites('take 6\n')
  expect(await control.guestReadsLine()).toBe(`6 ${digest('456789')}`)
})

test('door opens and closes its end and tells of the other end', async () => {
  const { port, control } = serve('door')
  control.guestWrites('close\nopen\nwait open\n')
  expect([await control.guestReadsLine(), await control.guestReadsLine()]).toEqual(['closed', 'opened'])
  port.guestOpens(true)
  expect(await control.guestReadsLine()).toBe('open')
  expect(port.openings).toEqual([false, true])
  port.guestWrites('x')
  expect((await port.guestReads(1)).toString()).toBe('x')
})

test('terminal resizes, types and reads lines', async () => {
  const { port, control } = serve('terminal')
  control.guestWrites('resize 132 43\ntype hello there\nline\n')
  expect(await control.guestReadsLine()).toBe('resized')
  expect(port.sizes).toEqual([[132, 43]])
  expect(await control.guestReadsLine()).toBe('typed')
  expect(await port.guestReadsLine()).toBe('hello there')
  port.guestWrites('answer\r\n')
  expect(await control.guestReadsLine()).toBe('answer')
})

test('machine changes a device of the guest, and names what it cannot do', async () => {
  const port = new TestPort('p')
  const links: [string, boolean][] = []
  const guest = {
    port: () => port,
    setLink: async (device: string, up: boolean) => {
      if (device !== 'net0') throw new Error(`no device ${device}`)
      links.push([device, up])
    },
    disk: (name: string) => ({
      sha256: async (offset: number, length: number) => `${name} ${offset}+${length}`,
    }),
  } as unknown as Guest
  servePeers(guest, [{ name: 'p', peer: 'machine', console: false }])
  port.guestWrites(
    'link net0 down\nlink net0 up\nlink net1 up\nlink net0 sideways\ndisk vol digest 512 7\ndisk vol wipe 0 1\n',
  )
  expect(await port.guestReadsLine()).toBe('down')
  expect(await port.guestReadsLine()).toBe('up')
  expect(await port.guestReadsLine()).toBe('error: no device net1')
  expect(await port.guestReadsLine()).toContain('error: unknown command')
  expect(await port.guestReadsLine()).toBe('vol 512+7')
  expect(await port.guestReadsLine()).toContain('error: unknown command')
  expect(links).toEqual([
    ['net0', false],
    ['net0', true],
  ])
})

test('machine sets a balloon and tells of it, and of the host’s memory', async () => {
  const port = new TestPort('p')
  const asked: unknown[] = []
  const report = { target: 4096, actual: 0, updates: 2, statistics: { 4: 1000, 5: 2000 } }
  const guest = {
    port: () => port,
    privateMemory: async () => 12345,
    balloon: (name: string) => ({
      report: async () => report,
      setTarget: async (bytes: number) => asked.push([name, bytes]),
      statistics: async () => asked.push([name, 'statistics']),
      hints: async () => Promise.reject(new Error('no hints')),
    }),
  } as unknown as Guest
  servePeers(guest, [{ name: 'p', peer: 'machine', console: false }])
  port.guestWrites(
    'balloon b 4096\nballoon b statistics\nballoon b\nballoon b hints\nballoon b half\nmemory\n',
  )
  const line = 'target=4096 actual=0 updates=2 stat4=1000 stat5=2000'
  for (let i = 0; i < 3; i++) expect(await port.guestReadsLine()).toBe(line)
  expect(await port.guestReadsLine()).toBe('error: no hints')
  expect(await port.guestReadsLine()).toContain('error: unknown command')
  expect(await port.guestReadsLine()).toBe('12345')
  expect(asked).toEqual([
    ['b', 4096],
    ['b', 'statistics'],
  ])
})
