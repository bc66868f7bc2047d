import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

const ROOT = resolve(import.meta.dirname, '../../..')

type Tests = Record<string, { status: string; failureMessages: string[]; line?: number }>

export interface VitestRun {
  status: number | null
  /** Without colours. */
  output: string
  /** What the JSON reporter wrote, by full test name. */
  tests: Tests
  /** The same by file. */
  files: Record<string, Tests>
  junit: string
  /** `boot NAME KERNEL` or `fork NAME KERNEL`, and `stop NAME` lines of the stand-in host. */
  guests: string[]
}

export interface ProjectOptions {
  kernels?: string[]
  /** `test` of vitest's config. One worker has all files unless it says `isolate: true`: a new one costs as much as a script. */
  test?: object
  /** Of every vitest that is started there. */
  env?: NodeJS.ProcessEnv
  /** Options of the plugin. */
  plugin?: object
  /** Options of kvitestProjects(), once for each call of it. */
  projects?: object[]
  /** Projects beside those, as vitest's config has them. */
  others?: object[]
}

/** A temporary project with the plugin and the stand-in host, and real `vitest` processes in it. */
export class TemporaryProject implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), 'kvitest-vitest-'))
  readonly #env: NodeJS.ProcessEnv

  constructor(files: Record<string, string>, options: ProjectOptions = {}) {
    this.#env = options.env ?? {}
    symlinkSync(join(ROOT, 'node_modules'), join(this.folder, 'node_modules'))
    this.write({ 'package.json': '{ "type": "module" }', 'vitest.config.ts': config(options), ...files })
  }

  write(files: Record<string, string>): void {
    for (const [name, text] of Object.entries(files)) {
      const path = join(this.folder, name)
      mkdirSync(dirname(path), { recursive: true })
      writeFileSync(path, text)
    }
  }

  read(name: string): string {
    return readFileSync(join(this.folder, name), 'utf8')
  }

  /** Resolves when a script has made that file. */
  async appeared(name: string): Promise<void> {
    while (!existsSync(join(this.folder, name))) await sleep(20)
  }

  /** `vitest run ARGS...`, to its end. */
  async run(...args: string[]): Promise<VitestRun> {
    const log = join(this.folder, 'guests.log')
    const json = join(this.folder, 'result.json')
    for (const old of [log, json, join(this.folder, 'test-results')])
      rmSync(old, { recursive: true, force: true })
    const reporters = ['--reporter=verbose', '--reporter=json', `--outputFile.json=${json}`]
    const { status, output } = await this.vitest('run', ...reporters, ...args)
    return {
      status,
      output,
      ...testsOf(textOf(json), this.folder),
      junit: textOf(join(this.folder, 'test-results/junit.xml')),
      guests: textOf(log).split('\n').filter(Boolean),
    }
  }

  /** `vitest ARGS...` */
  vitest(...args: string[]): Promise<{ status: number | null; output: string }> {
    return this.start(args).finished
  }

  /** A `vitest` that goes on while the test looks at it. */
  start(args: string[]): RunningVitest {
    return this.#spawn([process.execPath, join(ROOT, 'node_modules/vitest/vitest.mjs'), ...args], {
      NO_COLOR: '1',
    })
  }

  /** The same on a pseudo-terminal, in colour and with cursor movements. */
  startOnTerminal(args: string[]): RunningVitest {
    const words = [process.execPath, join(ROOT, 'node_modules/vitest/vitest.mjs'), ...args]
    const line = words.map((word) => `'${word}'`).join(' ')
    return this.#spawn(['script', '-qefc', line, '/dev/null'], { TERM: 'xterm' })
  }

  #spawn([program, ...args]: string[], env: NodeJS.ProcessEnv): RunningVitest {
    const child = spawn(program!, args, {
      cwd: this.folder,
      env: {
        PATH: process.env.PATH,
        HOME: process.env.HOME,
        NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE,
        STAND_IN_LOG: join(this.folder, 'guests.log'),
        ...env,
        ...this.#env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    return new RunningVitest(child)
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true })
  }
}

export class RunningVitest {
  readonly finished: Promise<{ status: number | null; output: string }>
  readonly #child: ChildProcess
  #output = ''
  #listeners: (() => void)[] = []

  constructor(child: ChildProcess) {
    this.#child = child
    const keep = (data: Buffer) => {
      this.#output += data
      for (const listener of this.#listeners) listener()
    }
    child.stdout!.on('data', keep)
    child.stderr!.on('data', keep)
    this.finished = new Promise((settle) => {
      child.on('close', (status) => settle({ status, output: this.#output }))
    })
  }

  /** Resolves when the output has that text; rejects when vitest ends without it. */
  async saw(text: string): Promise<void> {
    const seen = new Promise<void>((settle) => {
      const look = () => this.#output.includes(text) && settle()
      this.#listeners.push(look)
      look()
    })
    const ended = this.finished.then(({ output }) => {
      if (!output.includes(text)) throw new Error(`vitest ended without "${text}":\n${output}`)
    })
    await Promise.race([seen, ended])
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }
}

function config({ kernels, test = {}, plugin = {}, projects, others = [] }: ProjectOptions): string {
  const source = (path: string) => JSON.stringify(join(ROOT, path))
  const hostModule = join(ROOT, 'src/vitest/testing/process-host.ts')
  const options = { ...plugin, hostModule }
  const calls = projects ?? (kernels ? [{ kernels }] : [])
  return `import { defineConfig } from 'vitest/config'
import { kvitest, kvitestProjects } from ${source('src/vitest/index.ts')}
const options = ${JSON.stringify(options)}
const calls = ${JSON.stringify(calls)}
const test = ${JSON.stringify({ isolate: false, ...test })}
const others = ${JSON.stringify(others)}
const projects = [...others, ...calls.flatMap((call) => kvitestProjects({ ...options, ...call }))]
export default defineConfig(projects.length > 0
  ? { test: { ...test, projects } }
  : { test, plugins: [kvitest(options)] })
`
}

function testsOf(text: string, folder: string): Pick<VitestRun, 'tests' | 'files'> {
  if (text === '') return { tests: {}, files: {} }
  const report = JSON.parse(text) as {
    testResults: {
      name: string
      assertionResults: {
        fullName: string
        status: string
        failureMessages: string[]
        location?: { line: number }
      }[]
    }[]
  }
  const files = report.testResults.map(({ name, assertionResults }): [string, Tests] => {
    const entries = assertionResults.map(({ fullName, status, failureMessages, location }) => [
      fullName,
      { status, failureMessages, ...(location ? { line: location.line } : {}) },
    ])
    return [relative(folder, name), Object.fromEntries(entries)]
  })
  return { tests: Object.assign({}, ...files.map(([, tests]) => tests)), files: Object.fromEntries(files) }
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
