/** What the end of a program says about a point. */
import type { ProgramResult } from '../host/program/contract.ts'
import { TapStream } from '../tap/stream.ts'
import type { Point } from '../tap/types.ts'
import { findSplats } from '../verdict/splat.ts'
import { withFingerprints } from './fingerprint.ts'
import type { PointResult } from './tool.ts'

const maxOutput = 16 << 10

/** Splats of the host's kernel and a missed deadline say more than any exit status: undefined when there was neither. */
export function hostileEnd(result: ProgramResult, deadline: number): PointResult | undefined {
  const evidence = { output: evidenceOf(result), duration: result.duration }
  const [splat] = findSplats((result.kernelLog ?? []).join('\n'))
  if (splat) return { verdict: 'oops', reason: splat.title, ...evidence }
  if (result.expired)
    return { verdict: 'timeout', reason: `not done after ${deadline / 1000} s`, ...evidence }
  return undefined
}

/**
 * A program of the kernel's selftests (Documentation/dev-tools/kselftest.rst): status 0 passed, 4 skipped, 2 and 3 an
 * expected failure and an unexpected pass of its own, anything else failed.
 */
export function selftestResult(result: ProgramResult, deadline: number): PointResult {
  const bad = hostileEnd(result, deadline)
  if (bad) return bad
  const { status, signal } = result
  const evidence = { output: evidenceOf(result), duration: result.duration }
  if (status === 0) return { verdict: 'pass', ...evidence }
  if (status === 2) return { verdict: 'pass', reason: 'fails as it expects', ...evidence }
  if (status === 4) return { verdict: 'skip', reason: skipReason(result), ...evidence }
  const end = signal ? `ended by ${signal}` : `exit status ${status}`
  const said = assertion(result)
  return { verdict: 'fail', reason: said ? `${said} (${end})` : end, ...evidence }
}

/** `1..0 # SKIP - reason`, or the last thing that it said. */
function skipReason({ stdout, stderr }: ProgramResult): string {
  const text = `${stdout}\n${stderr}`
  const match = /# SKIP[ -]*(\S.*)/i.exec(text)
  return match?.[1]?.trim() ?? text.trim().split('\n').at(-1)?.trim() ?? ''
}

/** The line that a failed TEST_ASSERT begins with, and what was compared. */
function assertion({ stdout, stderr }: ProgramResult): string | undefined {
  const lines = `${stdout}\n${stderr}`.split('\n').map((line) => line.trim())
  const at = lines.findIndex((line) => /Test Assertion Failure/.test(line))
  if (at >= 0) return lines.slice(at + 1, at + 3).join(': ')
  return lines.findLast((line) => /^not ok |fail|error/i.test(line))
}

/** The ends of its streams and the kernel's lines. */
export function evidenceOf({ stdout, stderr, kernelLog = [] }: ProgramResult): string {
  const part = (title: string, text: string) => (text.trim() ? [`${title}:`, tail(text)] : [])
  return [...part('stdout', stdout), ...part('stderr', stderr), ...part('kernel', kernelLog.join('\n'))].join(
    '\n',
  )
}

function tail(text: string): string {
  const trimmed = text.trimEnd()
  return trimmed.length <= maxOutput ? trimmed : `...${trimmed.slice(-maxOutput)}`
}

/**
 * What a program that prints TAP reports, by the names of its points. A bail-out, a plan that was not kept, an end by
 * a signal or a splat is a point of its own, named `the run`, which is there whatever happened.
 */
export function tapResults(result: ProgramResult, deadline: number): Map<string, PointResult> {
  const tap = new TapStream()
  tap.write(Buffer.from(result.stdout))
  const { points, problems, bailOut } = tap.end()
  const results = pointResults(points)
  const names = points.map(nameOf)
  const twice = new Set(names.filter((name, at) => names.indexOf(name) !== at))
  const evidence = { output: evidenceOf(result), duration: result.duration }
  const faults = [
    ...(bailOut === undefined ? [] : [`bail out: ${bailOut}`]),
    ...problems,
    ...[...twice].map((name) => `two points named ${name}`),
    ...(result.signal ? [`ended by ${result.signal}`] : []),
    ...(result.status !== 0 && result.status !== null ? [`exit status ${result.status}`] : []),
  ]
  const ended: PointResult =
    faults.length > 0
      ? { verdict: 'fail', reason: faults.join('; '), ...evidence }
      : { verdict: 'pass', ...evidence }
  results.set('the run', hostileEnd(result, deadline) ?? ended)
  return results
}

/**
 * The same of a VMM whose guest's console is its standard error, or another of its streams: a splat there is an `oops`,
 * whatever the script said.
 */
export function guestResults(
  result: ProgramResult,
  deadline: number,
  console: 'stdout' | 'stderr' = 'stderr',
): Map<string, PointResult> {
  const results = tapResults(result, deadline)
  const [splat] = findSplats(result[console])
  const run = results.get('the run')
  if (splat && run && run.verdict !== 'timeout')
    results.set('the run', { ...run, verdict: 'oops', reason: `in the guest: ${splat.title}` })
  return results
}

/** TAP points by their names, those of subtests with the names around them; a fingerprint is a point a section. */
export function pointResults(points: readonly Point[]): Map<string, PointResult> {
  return withFingerprints(new Map(points.map((point) => [nameOf(point), pointResult(point)])))
}

function nameOf(point: Point): string {
  return [...point.path, point.name].join(' > ')
}

function pointResult(point: Point): PointResult {
  const output = point.output.join('\n')
  if (point.result === 'skip') return { verdict: 'skip', reason: point.reason ?? '', output }
  const isOk = point.result === 'pass' || point.result === 'todo' || point.result === 'todo-pass'
  return isOk
    ? { verdict: 'pass', output }
    : { verdict: 'fail', reason: `not ok ${point.id} - ${point.name}`, output }
}
