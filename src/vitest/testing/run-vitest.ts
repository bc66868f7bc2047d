import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'

const ROOT = resolve(import.meta.dirname, '../../..')

export interface VitestRun {
  status: number | null
  /** Without colours. */
  output: string
  /** What the JSON reporter wrote, by full test name. */
  tests: Record<string, { status: string; failureMessages: string[]; line?: number }>
  junit: string
  /** `boot NAME KERNEL` and `stop NAME` lines of the stand-in host. */
  guests: string[]
}

/** A temporary project with the plugin and the stand-in host, and real `vitest` processes in it. */
export class TemporaryProject implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), 'kvitest-vitest-'))

  constructor(files: Record<string, string>, options: { kernels?: string[]; test?: object } = {}) {
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
      tests: testsOf(textOf(json)),
      junit: textOf(join(this.folder, 'test-results/junit.xml')),
      guests: textOf(log).split('\n').filter(Boolean),
    }
  }

  /** `vitest ARGS...` */
  vitest(...args: string[]): Promise<{ status: number | null; output: string }> {
    const child = spawn(process.execPath, [join(ROOT, 'node_modules/vitest/vitest.mjs'), ...args], {
      cwd: this.folder,
      env: {
        PATH: process.env.PATH,
        HOME: process.env.HOME,
        NO_COLOR: '1',
        STAND_IN_LOG: join(this.folder, 'guests.log'),
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let output = ''
    const keep = (data: Buffer) => {
      output += data
    }
    child.stdout.on('data', keep)
    child.stderr.on('data', keep)
    return new Promise((settle) => child.on('close', (status) => settle({ status, output })))
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true })
  }
}

function config({ kernels, test = {} }: { kernels?: string[]; test?: object }): string {
  const source = (path: string) => JSON.stringify(join(ROOT, path))
  const plugin = `{ hostModule: ${source('src/vitest/testing/process-host.ts')} }`
  return `import { defineConfig } from 'vitest/config'
import { kvitest, kvitestProjects } from ${source('src/vitest/index.ts')}
const kernels = ${JSON.stringify(kernels ?? [])}
const test = ${JSON.stringify(test)}
export default defineConfig(kernels.length > 0
  ? { test: { ...test, projects: kvitestProjects({ ...${plugin}, kernels }) } }
  : { test, plugins: [kvitest(${plugin})] })
`
}

function testsOf(text: string): VitestRun['tests'] {
  if (text === '') return {}
  const report = JSON.parse(text) as {
    testResults: {
      assertionResults: {
        fullName: string
        status: string
        failureMessages: string[]
        location?: { line: number }
      }[]
    }[]
  }
  const entries = report.testResults.flatMap((file) =>
    file.assertionResults.map(({ fullName, status, failureMessages, location }) => [
      fullName,
      { status, failureMessages, ...(location ? { line: location.line } : {}) },
    ]),
  )
  return Object.fromEntries(entries)
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
