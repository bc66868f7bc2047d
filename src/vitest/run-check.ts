import { existsSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import type { TaskMeta } from 'vitest'
import type {
  TestCase,
  TestModule,
  TestProject,
  TestRunEndReason,
  TestSpecification,
  Vitest,
} from 'vitest/node'
import { missingCells } from '../matrix/account.ts'
import { describeEntry, type ExpectationFile, type Place } from '../verdict/expectations.ts'
import { type RunTest, staleEntries } from '../verdict/settle.ts'
import type { Verdict } from '../verdict/types.ts'
import { type ExpectationScope, expectationFilesFor, expectationPaths } from './expectation-files.ts'
import { placeOf } from './expected.ts'
import { matrixRuns } from './matrix-runs.ts'
import { guestsOf } from './meta.ts'

/** A fault of a run as a whole, which no test of its own could show. */
export interface RunProblem {
  /** What is at fault: a project, an entry's `file:line`. */
  name: string
  /** One line. */
  message: string
}

/** What the plugin of a project says of itself, where reporters find it. */
export interface PluginApi {
  kvitest: { expectations: readonly string[] }
}

/** Ends after which all of a guest's points are there. */
const WHOLE: readonly Verdict[] = ['pass', 'fail', 'skip', 'oops']

const checks = new WeakMap<Vitest, RunCheck>()

/** Looks at a run as a whole: projects without a test file, entries of expectations that nothing answers to. */
export class RunCheck {
  readonly #vitest: Vitest
  #specifications: readonly TestSpecification[] = []
  /** By the run's own list of modules: several reporters ask. */
  readonly #problems = new WeakMap<readonly TestModule[], Promise<RunProblem[]>>()

  /** The one check of a vitest whose projects use the plugin. */
  static of(vitest: Vitest): RunCheck {
    let check = checks.get(vitest)
    if (!check) {
      check = new RunCheck(vitest)
      checks.set(vitest, check)
    }
    return check
  }

  constructor(vitest: Vitest) {
    this.#vitest = vitest
  }

  started(specifications: readonly TestSpecification[]): void {
    this.#specifications = specifications
  }

  problems(modules: readonly TestModule[], reason: TestRunEndReason): Promise<RunProblem[]> {
    let problems = this.#problems.get(modules)
    if (!problems) {
      problems = this.#check(modules, reason)
      this.#problems.set(modules, problems)
    }
    return problems
  }

  async #check(modules: readonly TestModule[], reason: TestRunEndReason): Promise<RunProblem[]> {
    const all = await Promise.all(this.#vitest.projects.map(filesOf))
    const projects = all.filter(({ isOurs }) => isOurs)
    const others = all.filter(({ isOurs }) => !isOurs)
    const always = [
      ...projects.filter(({ files }) => files.length === 0).map(({ project }) => emptyProject(project)),
      ...unheardProblems(projects, others),
    ]
    if (reason === 'interrupted' || this.isFiltered) return always
    const lost = this.#vitest.config.shard ? [] : lostCells(modules)
    return [...always, ...lost, ...staleProblems(projects, modules)]
  }

  /** Some tests of a file were left out by the user; of a matrix, those of other shards. */
  get isPart(): boolean {
    return this.isFiltered || this.#vitest.config.shard !== undefined
  }

  /** Some tests of a file were left out by the user. */
  get isFiltered(): boolean {
    if (this.#vitest.config.testNamePattern || this.#vitest.config.tagsFilter) return true
    return this.#specifications.some(
      ({ testNamePattern, testLines = [], testIds = [], testNames = [], testTagsFilter = [] }) =>
        testNamePattern !== undefined ||
        [testLines, testIds, testNames, testTagsFilter].some((picked) => picked.length > 0),
    )
  }
}

/** Cells of a run without a filter that are not there: infra, whatever else passed. */
function lostCells(modules: readonly TestModule[]): RunProblem[] {
  return matrixRuns(modules).flatMap(({ name, expected, cells }) =>
    missingCells(expected, cells).map((id) => ({
      name: `matrix ${name}: ${id}`,
      message: `matrix ${name}: the cell ${id} did not run (infra)`,
    })),
  )
}

interface ProjectFiles {
  project: TestProject
  /** It uses the plugin. */
  isOurs: boolean
  scope: ExpectationScope
  /** Absolute, whatever a run was asked for. */
  files: string[]
}

function apiOf(project: TestProject): PluginApi['kvitest'] | undefined {
  for (const { api } of project.vite.config.plugins as readonly { api?: Partial<PluginApi> }[]) {
    if (api?.kvitest) return api.kvitest
  }
  return undefined
}

async function filesOf(project: TestProject): Promise<ProjectFiles> {
  const { testFiles } = await project.globTestFiles()
  const { expectations: listed } = apiOf(project) ?? { expectations: [] }
  return {
    project,
    isOurs: apiOf(project) !== undefined,
    files: testFiles,
    scope: { root: project.config.root, listed },
  }
}

function expectationsBeside({ files, scope }: ProjectFiles): Set<string> {
  const oneEach = new Map(files.map((file) => [dirname(file), file]))
  return new Set([...oneEach.values()].flatMap((file) => expectationPaths(file, scope)))
}

/** What lies beside tests of projects without the plugin, which look at no expectations, and of no other. */
function unheardProblems(ours: readonly ProjectFiles[], others: readonly ProjectFiles[]): RunProblem[] {
  const heard = new Set(ours.flatMap((files) => [...expectationsBeside(files)]))
  const unheard = new Map<string, TestProject>()
  for (const files of others) {
    for (const path of expectationsBeside(files)) if (!heard.has(path)) unheard.set(path, files.project)
  }
  return [...unheard].map(([path, { name, config }]) => {
    const shown = relative(config.root, path)
    const project = name ? `project ${name}` : 'the project'
    return {
      name: shown,
      message: `${shown}: ${project} does not use the plugin of kvitest, so nothing is expected of its tests; add plugins: [kvitest()]`,
    }
  })
}

function emptyProject({ name, config }: TestProject): RunProblem {
  const shown = name || 'the project'
  const include = config.include.join(', ')
  return { name: shown, message: `${shown} has no cells: no file matches its include (${include})` }
}

/** An `*.expect.yaml` and every test file, in every project, that it may speak of. */
interface Reach {
  file: ExpectationFile
  units: { project: TestProject; testFile: string }[]
}

function staleProblems(projects: readonly ProjectFiles[], modules: readonly TestModule[]): RunProblem[] {
  const { reaches, broken } = reachesOf(projects)
  // The reports of several jobs, merged, have several modules of one file.
  const ran = Map.groupBy(modules, ({ project, moduleId }) => keyOf(project, moduleId))
  const stale = reaches.flatMap(({ file, units }) => {
    const reached = units.map(({ project, testFile }) => ran.get(keyOf(project, testFile)))
    // Of a run without some of its files nothing can be said, nor of one that broke off.
    if (!reached.every((parts) => parts?.every(isWhole) && lostCells(parts).length === 0)) return []
    const view = viewOf(reached.flatMap((parts) => parts ?? []))
    return staleEntries(file, { ...view, isLeftOut: (test) => isLeftOut(test, file, units) })
  })
  return [
    ...broken,
    ...stale.map((entry) => ({
      name: entry.source,
      message: `${describeEntry(entry)}: nothing in this run answers to the entry; remove it, or mend what it names`,
    })),
  ]
}

/** The entry names a file that is there, and that no project has among its tests: of those nobody can answer. */
function isLeftOut(test: string, { base }: ExpectationFile, units: Reach['units']): boolean {
  const path = join(base, test.split(' > ')[0]!)
  return !units.some(({ testFile }) => testFile === path) && existsSync(path)
}

function reachesOf(projects: readonly ProjectFiles[]): { reaches: Reach[]; broken: RunProblem[] } {
  const reaches = new Map<string, Reach>()
  const broken = new Map<string, RunProblem>()
  for (const { project, scope, files } of projects) {
    const known = new Map<string, ExpectationFile[]>()
    for (const testFile of files) {
      const folder = dirname(testFile)
      try {
        if (!known.has(folder)) known.set(folder, expectationFilesFor(testFile, scope))
      } catch (error) {
        const { message, operation } = error as Error & { operation?: string }
        broken.set(message, { name: operation ?? message, message })
        known.set(folder, [])
      }
      for (const file of known.get(folder)!) {
        const reach = reaches.get(file.path) ?? { file, units: [] }
        reach.units.push({ project, testFile })
        reaches.set(file.path, reach)
      }
    }
  }
  return { reaches: [...reaches.values()], broken: [...broken.values()] }
}

function keyOf(project: TestProject, file: string): string {
  return `${project.name}\0${file}`
}

/** Everything that the file has was there to be named. */
function isWhole(module: TestModule): boolean {
  const blocks = [module, ...module.children.allSuites()]
  const tests = [...module.children.allTests()]
  return (
    blocks.every((block) => block.errors().length === 0) &&
    tests.every((test) => test.result().state !== 'pending') &&
    metasOf(module).every((meta) => guestsOf(meta).every(({ verdict }) => WHOLE.includes(verdict)))
  )
}

function viewOf(modules: readonly TestModule[]): Parameters<typeof staleEntries>[1] {
  const guests = modules.flatMap(metasOf).flatMap(guestsOf)
  return {
    tests: modules.flatMap((module) => [...module.children.allTests()].map(runTest)),
    places: guests.map(({ kernelRelease, host }) => ({ kernelRelease, host })),
    allowed: new Set(guests.flatMap(({ allowed = [] }) => allowed.map(({ source }) => source))),
  }
}

function metasOf(module: TestModule): TaskMeta[] {
  const { children } = module
  return [module, ...children.allSuites(), ...children.allTests()].map((entity) => entity.meta())
}

function runTest(test: TestCase): RunTest {
  const path = [test.name]
  let place: Place = placeOf(test.meta())
  for (let at = test.parent; ; at = at.parent) {
    // A test that did not run has its guest's place from the block.
    if (place.host === undefined) place = placeOf(at.meta())
    if (at.type === 'module') return { test: { file: at.moduleId, path }, place }
    path.unshift(at.name)
  }
}
