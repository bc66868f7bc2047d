import { stripVTControlCharacters } from 'node:util'
import builderModule, { type Builder, type TestCase, type TestSuite } from 'junit-report-builder'

// Its types promise a property `default` that its CommonJS does not have.
const builder = builderModule as unknown as Builder

/** Something that went wrong in one test. */
export interface JUnitProblem {
  /** One line. */
  message: string
  /** The name of the error's class. */
  type: string
  /** Stack, diff and the rest. */
  details: string
}

export type JUnitOutcome =
  | { kind: 'passed' }
  | { kind: 'skipped'; reason: string | undefined }
  | { kind: 'failed'; problems: JUnitProblem[] }
  /** It never came to a result: its worker died, its file did not load. */
  | { kind: 'error'; problems: JUnitProblem[] }

export interface JUnitCase {
  /** Dotted, as Jenkins groups by it; stable from run to run. */
  classname: string
  name: string
  /** Relative to the root, as GitLab links it. */
  file?: string
  line?: number
  /** Milliseconds. */
  duration: number
  /** Milliseconds since the epoch. */
  startTime?: number
  outcome: JUnitOutcome
  /** What earlier attempts of a retried test failed with. */
  earlierFailures: JUnitProblem[]
  output?: string
}

export interface JUnitSuite {
  name: string
  file?: string
  /** Milliseconds since the epoch. */
  startTime?: number
  /** Milliseconds. */
  duration: number
  properties: Record<string, string>
  cases: JUnitCase[]
  /** The console of the guest. */
  output?: string
}

/** What junit-report-builder hands out while it builds; the edits below work on it. */
interface Element {
  att(name: string, value: string | number): Element
  ele(name: string, attributes?: Record<string, string>, text?: string): Element
}

const ILLEGAL = /[^\P{Cc}\t\n\r]|[\ufffe\uffff]/gu

/** Text that XML 1.0 can carry, without terminal colours. */
export function xmlText(text: string): string {
  return stripVTControlCharacters(text.toWellFormed()).replace(ILLEGAL, '')
}

/**
 * The report as XML after src/report/junit.xsd: what Jenkins' junit plugin and GitLab's importer read, with Surefire's
 * `flakyFailure` and `rerunFailure` for retried tests.
 */
export function junitXml(suites: JUnitSuite[]): string {
  const report = builder.newBuilder().name('kvitest')
  for (const suite of suites) addSuite(report.testSuite(), suite)
  return report.build()
}

function addSuite(node: TestSuite, suite: JUnitSuite): void {
  node.name(xmlText(suite.name)).time(seconds(suite.duration))
  if (suite.startTime !== undefined) node.timestamp(new Date(suite.startTime).toISOString())
  for (const [name, value] of Object.entries(suite.properties)) node.property(xmlText(name), xmlText(value))
  for (const one of suite.cases) addCase(node.testCase(), one)
  const { file, output } = suite
  edit(node, (element) => {
    if (file !== undefined) element.att('file', xmlText(file))
    if (output) element.ele('system-out', {}, xmlText(output))
  })
}

function addCase(node: TestCase, one: JUnitCase): void {
  node.className(xmlText(one.classname)).name(xmlText(one.name)).time(seconds(one.duration))
  if (one.file !== undefined) node.file(xmlText(one.file))
  const { outcome } = one
  // The builder counts what it was told; the elements below are ours, so are the counts.
  node.getSkippedCount = () => (outcome.kind === 'skipped' ? 1 : 0)
  node.getFailureCount = () => (outcome.kind === 'failed' ? 1 : 0)
  node.getErrorCount = () => (outcome.kind === 'error' ? 1 : 0)
  edit(node, (element) => {
    if (one.line !== undefined) element.att('line', one.line)
    if (one.startTime !== undefined) element.att('timestamp', new Date(one.startTime).toISOString())
    if (outcome.kind === 'skipped') {
      element.ele('skipped', outcome.reason ? { message: xmlText(outcome.reason) } : {})
    }
    if (outcome.kind === 'failed') addProblems(element, 'failure', outcome.problems)
    if (outcome.kind === 'error') addProblems(element, 'error', outcome.problems)
    const retried = outcome.kind === 'passed' ? 'flakyFailure' : 'rerunFailure'
    addProblems(element, retried, one.earlierFailures)
    if (one.output) element.ele('system-out', {}, xmlText(one.output))
  })
}

function addProblems(element: Element, name: string, problems: JUnitProblem[]): void {
  for (const { message, type, details } of problems) {
    element.ele(name, { message: xmlText(message), type: xmlText(type) }, xmlText(details))
  }
}

/** Adds to the XML of a node once the builder has made its own part of it. */
function edit(
  node: Pick<TestSuite, 'build'> | Pick<TestCase, 'build'>,
  add: (element: Element) => void,
): void {
  const build = node.build.bind(node) as TestCase['build']
  node.build = (parent: Parameters<TestCase['build']>[0]) => {
    const element = build(parent)
    add(element as unknown as Element)
    return element
  }
}

/** Seconds with three digits; importers refuse exponents and negative numbers. */
function seconds(milliseconds: number): number {
  return Math.max(0, Math.round(milliseconds)) / 1000
}
