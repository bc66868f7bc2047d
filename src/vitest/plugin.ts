import { readFile } from 'node:fs/promises'
import { dirname, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Plugin } from 'vitest/config'
import type { TestProject, Vitest } from 'vitest/node'
import { ArtifactsCleaner } from './artifacts-cleaner.ts'
import { expectationPaths } from './expectation-files.ts'
import { LISTED_VARIABLE } from './expected.ts'
import { JUnitReporter } from './junit-reporter.ts'
import type {} from './meta.ts'
import type { PluginApi } from './run-check.ts'
import { type ArtifactsWhen, type RunPlace, runPlaceVariables } from './run-place.ts'
import { shareMatrices } from './shard.ts'
import { sourcesKey } from './sources-key.ts'
import { SummaryReporter } from './summary-reporter.ts'
import { transformScript } from './transform/module.ts'

export interface KvitestOptions {
  /** Kernel of the guests; a script's own `kernel:` wins. Default: `KVITEST_KERNEL`, else kvitest's default. */
  kernel?: string
  /** `auto`, `local`, `lab` or `lab:KERNEL`. Default `auto`: chosen by measuring. */
  host?: string
  /** Guests that one worker keeps alive at a time. Default 4. */
  guestsPerWorker?: number
  /** Guests whose console is shown live, a glob of their names; KVITEST_CONSOLE wins. Default: none. */
  console?: string
  /** Where the JUnit file goes, relative to the root; false for none. Default `test-results/junit.xml`. */
  junit?: string | false
  /**
   * Files of expectations that apply to every test, relative to the root, besides the `*.expect.yaml` that lie beside
   * and above the tests. Names of tests in them begin from the root.
   */
  expectations?: string[]
  /** Which guests leave their files behind. Default `failed`, or what `KVITEST_ARTIFACTS` says. */
  artifacts?: ArtifactsWhen
  /** Where those files go, relative to the root; emptied when a run starts. Default `test-results/guests`. */
  artifactsDirectory?: string
  /** The memory of failing guests too, as ELF cores. Default: `KVITEST_CORE=1` in the environment. */
  core?: boolean
  /** Absolute path of a module that exports `openHost`, for a host of another kind. */
  hostModule?: string
}

const ARTIFACTS: readonly ArtifactsWhen[] = ['failed', 'always', 'none']
/** What vitest finds by itself. */
const DEFAULT_CONFIG = /^vite(st)?\.config\.[cm]?[jt]s$/
const SCRIPT = /\.tap\.[A-Za-z0-9]+$/

/** Of a module that Vite names. */
function fileOf(id: string): string {
  return id.replace(/[?#].*$/, '')
}

let knownKey: string | undefined
/** Read once, and not at all where no script is. */
function transformKey(): string {
  knownKey ??= sourcesKey(here('./transform'))
  return knownKey
}

/** The Vite plugin: `*.tap.sh` (and other `*.tap.*` scripts) become modules of vitest tests. */
export function kvitest(options: KvitestOptions = {}): Plugin {
  const hostModule = options.hostModule ?? here('../guest/host.ts')
  const { expectations = [] } = options
  const api: PluginApi = { kvitest: { expectations } }
  return {
    name: 'kvitest',
    enforce: 'pre',
    api,
    config: (given) => ({
      test: {
        // Vite joins lists: a default beside the config's own would only ever add to it.
        ...(given.test?.include ? {} : { include: ['**/*.tap.{sh,py,pl,lua,bash,ksh,awk}', '**/*.test.ts'] }),
        includeTaskLocation: true,
        pool: 'forks',
        runner: here('./runner.ts'),
        ...(options.hostModule === undefined ? { globalSetup: [here('./global-setup.ts')] } : {}),
        // What a project says for itself counts; vite would let ours win.
        maxConcurrency: given.test?.maxConcurrency ?? 64,
        hookTimeout: given.test?.hookTimeout ?? 120_000,
        testTimeout: given.test?.testTimeout ?? 120_000,
        env: {
          ...(options.kernel === undefined ? {} : { KVITEST_KERNEL: options.kernel }),
          ...(options.host === undefined ? {} : { KVITEST_HOST: options.host }),
          ...(options.console === undefined || process.env.KVITEST_CONSOLE
            ? {}
            : { KVITEST_CONSOLE: options.console }),
          ...(options.guestsPerWorker === undefined
            ? {}
            : { KVITEST_GUESTS_PER_WORKER: String(options.guestsPerWorker) }),
          [LISTED_VARIABLE]: JSON.stringify(expectations),
        },
      },
    }),
    configureVitest({ vitest, project, defineCacheKeyGenerator }) {
      // Else a module that vitest keeps from an older version of this plugin would be run by the newer one.
      defineCacheKeyGenerator(({ id }) => (SCRIPT.test(fileOf(id)) ? transformKey() : undefined))
      const scope = { root: project.config.root, listed: expectations }
      // No module imports them, so vitest has to be told whose tests to run again.
      vitest.config.watchTriggerPatterns ??= []
      vitest.config.watchTriggerPatterns.push({
        pattern: /\.ya?ml$/,
        testsToRun: (path) => {
          const tests = vitest.state.getFilepaths()
          const found = tests.filter((file) => expectationPaths(file, scope).includes(path))
          // To vitest an empty list says that the change was dealt with.
          return found.length > 0 ? found : undefined
        },
      })
      shareMatrices(vitest, project)
      const { reporters } = vitest.config
      const place = placeOf(vitest, project, options)
      Object.assign(project.config.env, runPlaceVariables(place))
      if (!reporters.some((one) => (one as unknown) instanceof ArtifactsCleaner)) {
        reporters.push(new ArtifactsCleaner(place.artifacts) as unknown as (typeof reporters)[number])
      }
      // Once, however many projects use the plugin.
      if (!reporters.some((one) => (one as unknown) instanceof SummaryReporter)) {
        const summary = new SummaryReporter({ isForPeople: reporters.some(isForPeople) })
        reporters.push(summary as unknown as (typeof reporters)[number])
      }
      const present = reporters.some(isJUnitReporter)
      if (options.junit === false || present || vitest.config.watch) return
      const output = options.junit ?? 'test-results/junit.xml'
      reporters.push(new JUnitReporter({ outputFile: output }) as unknown as (typeof reporters)[number])
    },
    async transform(_code, id) {
      const file = fileOf(id)
      if (!SCRIPT.test(file)) return undefined
      const { plan, ...module } = transformScript({
        file,
        // From the file, not from vite, which has normalised the line ends by now.
        text: await readFile(file, 'utf8'),
        session: here('./session.ts'),
        host: hostModule,
      })
      const { files, modules } = plan.header.guest
      for (const path of [...Object.values(files), ...modules.filter((name) => name.includes('/'))]) {
        this.addWatchFile(resolve(dirname(file), path))
      }
      return { code: module.code, map: module.map, moduleType: 'js' }
    },
  }
}

function placeOf(vitest: Vitest, project: TestProject, options: KvitestOptions): RunPlace {
  const { root } = vitest.config
  const config = vitest.vite.config.configFile
  const isFound = config === undefined || DEFAULT_CONFIG.test(relative(root, config))
  const when = ARTIFACTS.find((one) => one === process.env.KVITEST_ARTIFACTS)
  return {
    root,
    project: project.name,
    artifacts: resolve(root, options.artifactsDirectory ?? 'test-results/guests'),
    when: when ?? options.artifacts ?? 'failed',
    core: options.core ?? process.env.KVITEST_CORE === '1',
    ...(isFound ? {} : { config }),
  }
}

/** Writes to the terminal for a person, not for a program. */
function isForPeople(reporter: unknown): boolean {
  const name = Array.isArray(reporter) ? reporter[0] : reporter
  return ['default', 'verbose', 'tree', 'dot', 'minimal', 'agent'].includes(name)
}

/** Ours, as an instance or by the name under which `--reporter` finds it. */
function isJUnitReporter(reporter: unknown): boolean {
  const named = Array.isArray(reporter) ? reporter[0] : reporter
  return named instanceof JUnitReporter || named === 'kvitest/junit'
}

function here(path: string): string {
  return fileURLToPath(new URL(path, import.meta.url))
}
