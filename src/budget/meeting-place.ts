import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { KvitestError } from '../native/error.ts'
import { measureCapacity } from './capacity.ts'
import { BudgetServer } from './server.ts'

/** How long a new server waits for processes that live and may hold leases, but do not come. */
const settleLimit = 10_000
const settleInterval = 50

/** When a process began, in clock ticks since boot (proc(5), stat): with its pid it names a process for good. */
function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const [state, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return state === 'Z' || state === 'X' ? undefined : fields[18]
  } catch {
    return undefined
  }
}

/**
 * Where the processes of one user meet: a directory that only he enters, with the socket of the one that keeps the
 * budget, and a file for each process that may hold leases.
 */
export class MeetingPlace {
  readonly directory: string
  readonly socket: string
  readonly #clients: string
  readonly #onExit = () => this.#sweep()
  #own: string | undefined
  #serving: { server: BudgetServer; lock: Server } | undefined

  constructor(directory = MeetingPlace.default()) {
    this.directory = directory
    this.socket = join(directory, 'budget.sock')
    this.#clients = join(directory, 'clients')
  }

  static default(): string {
    const { XDG_RUNTIME_DIR } = process.env
    return XDG_RUNTIME_DIR ? join(XDG_RUNTIME_DIR, 'kvitest') : join(tmpdir(), `kvitest-${process.getuid!()}`)
  }

  /** This process may hold leases from now on: whoever keeps the budget next waits for it. */
  enter(): void {
    const name = join(this.#clients, `${process.pid}-${startOf(process.pid)}`)
    for (let attempt = 1; ; attempt++) {
      this.#prepare()
      try {
        writeFileSync(name, '')
        break
      } catch (error) {
        // Another process on its way out has removed the empty directory.
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || attempt === 5) throw error
      }
    }
    if (!this.#own) process.once('exit', this.#onExit)
    this.#own = name
  }

  /** Keeps the budget from now on, unless another process does: then it returns false. */
  async serve(): Promise<boolean> {
    if (this.#serving) return true
    this.#prepare()
    const lock = await this.#lock()
    if (!lock) return false
    try {
      const missing = this.#processes()
      let look = () => {}
      const server = new BudgetServer({
        measured: measureCapacity(),
        onClient: (pid, isThere) => {
          for (const one of missing) if (one.pid === pid) missing.delete(one)
          if (!isThere) this.#forget(pid)
          look()
        },
      })
      server.isOpen = false
      // What the one before left there.
      rmSync(this.socket, { force: true })
      await server.listen(this.socket)
      this.#serving = { server, lock }
      look = this.#openWhenAllAreHere(server, missing)
      look()
      return true
    } catch (error) {
      lock.close()
      throw error
    }
  }

  /** Stops keeping the budget: another process takes over. */
  async close(): Promise<void> {
    const { server, lock } = this.#serving ?? {}
    await server?.close()
    lock?.close()
    this.#serving = undefined
    process.removeListener('exit', this.#onExit)
    this.#sweep()
  }

  #prepare(): void {
    try {
      mkdirSync(this.directory, { recursive: true, mode: 0o700 })
      // Not what a link of somebody else's leads to.
      const found = lstatSync(this.directory)
      if (found.isDirectory() && found.uid === process.getuid!() && (found.mode & 0o077) === 0) {
        mkdirSync(this.#clients, { recursive: true, mode: 0o700 })
        return
      }
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      throw new KvitestError('share the machine', `${this.directory}: ${code}`, {
        code,
        hint: 'set XDG_RUNTIME_DIR to a directory of your own',
        cause: error,
      })
    }
    throw new KvitestError('share the machine', `${this.directory} is not this user's alone`, {
      code: 'EPERM',
      hint: 'remove it, or set XDG_RUNTIME_DIR to a directory of your own',
    })
  }

  /**
   * A name of the abstract namespace (unix(7)) is bound by one process at a time and free as soon as that one is gone,
   * however it went: what a lock file would need flock(2) for.
   */
  async #lock(): Promise<Server | undefined> {
    const lock = createServer((socket) => socket.destroy())
    const { promise, resolve, reject } = Promise.withResolvers<Server | undefined>()
    lock.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE') resolve(undefined)
      else reject(error)
    })
    const { dev, ino } = statSync(this.directory)
    lock.listen(`\0kvitest-budget-${dev}-${ino}`, () => resolve(lock))
    lock.unref()
    return promise
  }

  /** The processes that may hold leases, but for this one; those that are gone are swept. */
  #processes(): Set<{ pid: number; start: string }> {
    const found = new Set<{ pid: number; start: string }>()
    for (const name of readdirSync(this.#clients)) {
      const [pid = 0, start = ''] = [Number(name.split('-')[0]), name.split('-')[1]]
      if (startOf(pid) === start) found.add({ pid, start })
      else rmSync(join(this.#clients, name), { force: true })
    }
    return found
  }

  /** Of the processes that held leases of another server; call what is returned when one of them came. */
  #openWhenAllAreHere(server: BudgetServer, missing: Set<{ pid: number; start: string }>): () => void {
    const deadline = performance.now() + settleLimit
    const look = () => {
      for (const one of missing) if (startOf(one.pid) !== one.start) missing.delete(one)
      if (missing.size > 0 && performance.now() < deadline) return
      clearInterval(timer)
      server.isOpen = true
    }
    const timer = setInterval(look, settleInterval)
    timer.unref()
    return look
  }

  #forget(pid: number): void {
    if (pid === process.pid) return
    for (const name of this.#names()) {
      if (name.startsWith(`${pid}-`) && startOf(pid) === undefined)
        rmSync(join(this.#clients, name), { force: true })
    }
  }

  #names(): string[] {
    try {
      return readdirSync(this.#clients)
    } catch {
      return []
    }
  }

  /** On the way out: our own file, those of processes that are gone, and the directory when it is empty. */
  #sweep(): void {
    try {
      if (this.#own) rmSync(this.#own, { force: true })
      if (this.#serving) rmSync(this.socket, { force: true })
      for (const name of this.#names()) {
        const [pid, start] = name.split('-')
        if (startOf(Number(pid)) !== start) rmSync(join(this.#clients, name), { force: true })
      }
      rmdirSync(this.#clients)
      rmdirSync(this.directory)
    } catch {
      // Others are there still.
    }
  }
}
