/** Leases across real processes: whoever dies, nothing is lost and nothing is granted twice. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { BudgetClient } from './client.ts'
import { MeetingPlace } from './meeting-place.ts'
import type { GuestState, RunEvent } from './messages.ts'

const program = join(import.meta.dirname, 'testing/budget-child.ts')
let folder: string
let children: Child[]
let watchers: Watcher[]

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'kvitest-budget-'))
  children = []
  watchers = []
})

afterEach(async () => {
  for (const watcher of watchers) await watcher.close()
  for (const child of children) await child.kill()
  rmSync(folder, { recursive: true, force: true })
})

class Child {
  readonly #process: ChildProcess
  readonly #ended: Promise<unknown>
  #output = ''
  #look = () => {}

  constructor(run: string) {
    this.#process = spawn(process.execPath, [program, join(folder, 'place'), run], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    this.#ended = new Promise((settle) => this.#process.once('exit', settle))
    this.#process.stdout!.on('data', (data: Buffer) => {
      this.#output += data
      this.#look()
    })
    children.push(this)
  }

  say(line: string): void {
    this.#process.stdin!.write(`${line}\n`)
  }

  get lines(): string[] {
    return this.#output.split('\n').filter(Boolean)
  }

  async saw(line: string): Promise<void> {
    await new Promise<void>((settle) => {
      this.#look = () => {
        if (this.lines.includes(line)) settle()
      }
      this.#look()
    })
  }

  signal(signal: NodeJS.Signals): void {
    this.#process.kill(signal)
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    this.signal(signal)
    await this.#ended
  }

  async exit(): Promise<void> {
    this.say('exit')
    await this.#ended
  }

  /** Nothing more is asked of it: it comes to its own end. */
  async finish(): Promise<void> {
    this.#process.stdin!.end()
    await this.#ended
  }
}

/** A child that keeps the budget of two CPUs for the others. */
async function startServer(): Promise<Child> {
  const server = new Child('server')
  server.say('serve')
  await server.saw('serves')
  return server
}

/** Sees what the processes of a run come to; never keeps the budget itself. */
class Watcher {
  readonly #client: BudgetClient
  #events: RunEvent[] = []
  readonly #looks: (() => void)[] = []

  constructor(run: string) {
    const place = new MeetingPlace(join(folder, 'place'))
    this.#client = new BudgetClient({ place, run, limits: {}, modesty: 3_600_000 })
    watchers.push(this)
  }

  async begin(): Promise<this> {
    await this.#client.watch((event) => {
      this.#events.push(event)
      for (const look of this.#looks) look()
    })
    return this
  }

  /** What happened before counts no more. */
  forget(): void {
    this.#events = []
  }

  async saw(guest: string, state: GuestState): Promise<string | undefined> {
    return await new Promise((settle) => {
      const look = () => {
        const found = this.#events.find(
          (event) => event.type === 'guest' && event.guest === guest && event.state === state,
        )
        if (found?.type === 'guest') settle(found.detail)
      }
      this.#looks.push(look)
      look()
    })
  }

  async close(): Promise<void> {
    await this.#client.close()
  }
}

test('two runs share the machine, and each gets its turn', async () => {
  await startServer()
  const watcher = await new Watcher('b').begin()
  const [a, b] = [new Child('a'), new Child('b')]
  a.say('ask a 2')
  await a.saw('has a')
  b.say('ask b 2')
  expect(await watcher.saw('b', 'waiting')).toMatch(/^2 CPUs and 1 MiB: 1 guest of 1 run hold 2 of 2 CPUs/)
  expect(b.lines).toEqual([])
  a.say('end a')
  await b.saw('has b')
})

test('what a killed process held comes back', async () => {
  await startServer()
  const watcher = await new Watcher('r').begin()
  const [a, b] = [new Child('r'), new Child('r')]
  a.say('ask a 2')
  await a.saw('has a')
  b.say('ask b 2')
  await watcher.saw('b', 'waiting')
  expect(b.lines).toEqual([])
  await a.kill()
  await b.saw('has b')
})

test('when who keeps the budget is killed another takes over, and knows what the others hold', async () => {
  const server = await startServer()
  const watcher = await new Watcher('r').begin()
  const [a, b, c] = [new Child('r'), new Child('r'), new Child('r')]
  a.say('ask a 1')
  b.say('ask b 1')
  await a.saw('has a')
  await b.saw('has b')
  c.say('ask c 2')
  await watcher.saw('c', 'waiting')
  watcher.forget()
  await server.kill()
  await Promise.all([watcher.saw('a', 'running'), watcher.saw('b', 'running'), watcher.saw('c', 'waiting')])
  a.say('end a')
  await watcher.saw('a', 'ended')
  expect(c.lines.filter((line) => line.startsWith('has'))).toEqual([])
  b.say('end b')
  await c.saw('has c')
})

test('a process that had to find another one that keeps the budget comes to its own end', async () => {
  const server = await startServer()
  const watcher = await new Watcher('r').begin()
  const a = new Child('r')
  a.say('ask a 1')
  await a.saw('has a')
  watcher.forget()
  await server.kill()
  await watcher.saw('a', 'running')
  a.say('end a')
  await a.finish()
})

test('who takes over grants nothing before those who live have said what they hold', async () => {
  const server = await startServer()
  const watcher = await new Watcher('r').begin()
  const [a, c] = [new Child('r'), new Child('r')]
  a.say('ask a 1')
  await a.saw('has a')
  c.say('ask c 2')
  await watcher.saw('c', 'waiting')
  watcher.forget()
  a.signal('SIGSTOP')
  await server.kill()
  await watcher.saw('c', 'waiting')
  expect(c.lines).toEqual([])
  a.signal('SIGCONT')
  await watcher.saw('a', 'running')
  expect(c.lines).toEqual([])
  a.say('end a')
  await c.saw('has c')
})

test('only one keeps the budget at a time', async () => {
  const [a, b] = [new Child('a'), new Child('b')]
  a.say('serve')
  await a.saw('serves')
  b.say('serve')
  await b.saw('does not serve')
  await a.kill()
  b.say('serve')
  await b.saw('serves')
})

test('however they go, one after the other, the last one leaves nothing behind', async () => {
  const server = await startServer()
  const [a, b] = [new Child('a'), new Child('b')]
  a.say('ask a 1')
  b.say('ask b 1')
  await a.saw('has a')
  await b.saw('has b')
  await server.kill()
  await a.kill()
  b.say('ask b2 2')
  b.say('end b')
  await b.saw('has b2')
  await b.exit()
  expect(existsSync(join(folder, 'place')) && readdirSync(join(folder, 'place'))).toBe(false)
})

test('many that start at once agree on one that keeps the budget', async () => {
  const all = Array.from({ length: 6 }, (_, index) => new Child(`run ${index}`))
  for (const one of all) one.say('ask x 2')
  for (let turn = 0; turn < all.length; turn++) {
    const first = await Promise.race(
      all
        .filter((one) => !one.lines.includes('ended'))
        .map(async (one) => {
          await one.saw('has x')
          return one
        }),
    )
    expect(all.filter((one) => one.lines.includes('has x'))).toEqual([first])
    all.splice(all.indexOf(first), 1)
    await first.kill(turn % 2 === 0 ? 'SIGKILL' : 'SIGTERM')
  }
})

test.for([
  [
    'a directory that others may enter',
    (path: string) => mkdirSync(path, { mode: 0o755 }),
    "is not this user's alone",
  ],
  ['a link', (path: string) => symlinkSync(folder, path), "is not this user's alone"],
  ['a file', (path: string) => writeFileSync(path, ''), 'EEXIST'],
] as const)('%s is refused as the meeting place', async ([, make, reason]) => {
  const path = join(folder, 'place')
  make(path)
  const client = new BudgetClient({ place: new MeetingPlace(path), limits: {} })
  const lease = client.lease({ guest: 'g', cpus: 1, memory: 1, holder: { id: 'h' } })
  await expect(lease).rejects.toThrow(`share the machine: ${path}`)
  await expect(lease).rejects.toThrow(reason)
  await client.close()
})

test('a guest that takes more memory than all may is refused with one line; one given up leaves the line', async () => {
  const place = new MeetingPlace(join(folder, 'place'))
  const client = new BudgetClient({ place, limits: { cpus: 1, memory: 2 ** 30 } })
  const want = { cpus: 1, memory: 2 ** 29 }
  await expect(client.lease({ guest: 'g', cpus: 1, memory: 2 ** 31, holder: { id: 'h' } })).rejects.toThrow(
    'start g: it takes 2 GiB, and all guests together may take 1 GiB; ' +
      'give it less memory, or say what there is with KVITEST_BUDGET_MEMORY',
  )
  const first = await client.lease({ guest: 'first', ...want, holder: { id: 'a' } })
  const given = new AbortController()
  const second = client.lease({ guest: 'second', ...want, holder: { id: 'b' }, signal: given.signal })
  const third = client.lease({ guest: 'third', ...want, holder: { id: 'c' } })
  given.abort()
  await expect(second).rejects.toThrow('start second: its test ended while it waited for its turn')
  first.end()
  ;(await third).end()
  await client.close()
})
