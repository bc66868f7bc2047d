/** What a guest sees of its machine, as `fixtures/programs/fingerprint.c` says it, and how that differs between cells. */
import { gunzipSync } from 'node:zlib'
import { globMatches } from '../verdict/expectations.ts'
import type { CellPattern } from './declare.ts'
import type { Fingerprint, PointResult } from './tool.ts'

/** Each is a point of a tool that boots a guest: `fingerprint cpuid`. */
export const sections = ['cpuid', 'msr', 'pci', 'virtio', 'vulnerabilities', 'clock', 'dmesg'] as const

const prefix = 'fingerprint'

/** The point of the smoke script whose comments carry it, which its sections stand for. */
export const FINGERPRINT = prefix

/** Uncompressed; a guest that says more says nothing. */
const limit = 1 << 20

/** A declared difference: of the cells that the pattern names, in the keys that the glob names. */
export interface FingerprintDifference extends CellPattern {
  /** `cpuid 00000001.0 ecx`, `dmesg *`: section, blank, key. */
  key: string
  reason: string
}

export interface Excused {
  line: string
  reason: string
}

/** What differs, two lines a key, and what of it is declared. */
export interface Comparison {
  lines: string[]
  excused: Excused[]
  /** Declarations that excused something. */
  used: FingerprintDifference[]
}

/** `# fingerprint BASE64`, of gzip; undefined when it cannot be read. */
function decode(output: string): string | undefined {
  const text = [...output.matchAll(/^\s*# fingerprint (\S+)$/gm)].map((match) => match[1]).join('')
  try {
    return gunzipSync(Buffer.from(text, 'base64'), { maxOutputLength: limit }).toString()
  } catch {
    return undefined
  }
}

/** Puts a point for each section where the script's one was; leaves alone what is none. */
export function withFingerprints(results: Map<string, PointResult>): Map<string, PointResult> {
  const whole = results.get(FINGERPRINT)
  if (!whole) return results
  results.delete(FINGERPRINT)
  const text = whole.verdict === 'pass' ? decode(whole.output) : undefined
  const lines = (text ?? '').split('\n').map((line) => line.split('\t'))
  for (const section of sections) {
    const fingerprint: Fingerprint = {}
    for (const [name, key = '', value = ''] of lines) if (name === section) fingerprint[key] = value
    const isThere = Object.keys(fingerprint).length > 0 || (text !== undefined && section === 'dmesg')
    const said = Object.entries(fingerprint).map(([key, value]) => `${key}: ${value}`)
    results.set(
      `${prefix} ${section}`,
      isThere
        ? { verdict: 'pass', output: said.join('\n'), fingerprint }
        : {
            verdict: 'fail',
            reason: 'the guest did not say',
            output: text === undefined ? whole.output : '',
          },
    )
  }
  return results
}

/** The section of a point, undefined for another one. */
export function sectionOf(point: string): string | undefined {
  return sections.find((section) => point === `${prefix} ${section}`)
}

export function compareFingerprints(
  section: string,
  before: Fingerprint,
  after: Fingerprint,
  declared: readonly FingerprintDifference[] = [],
): Comparison {
  const found: Comparison = { lines: [], excused: [], used: [] }
  for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
    if (before[key] === after[key]) continue
    const pair = fingerprintLines(section, key, before[key], after[key])
    const entry = declared.find((one) => globMatches(one.key, `${section} ${key}`))
    if (entry) {
      found.excused.push(...pair.map((line) => ({ line, reason: entry.reason })))
      if (!found.used.includes(entry)) found.used.push(entry)
    } else found.lines.push(...pair)
  }
  return found
}

function fingerprintLines(
  section: string,
  key: string,
  before: string | undefined,
  after: string | undefined,
): [string, string] {
  return [`-${section} ${key}: ${before ?? '(absent)'}`, `+${section} ${key}: ${after ?? '(absent)'}`]
}

/** All that differs between two results of one point, declared or not; empty where one has no fingerprint. */
export function fingerprintDifferences(name: string, before: PointResult, after: PointResult): string[] {
  const section = sectionOf(name)
  if (section === undefined || !before.fingerprint || !after.fingerprint) return []
  return compareFingerprints(section, before.fingerprint, after.fingerprint).lines
}

/**
 * What a section's point comes to beside the same of the baseline's cell: it passes when they are equal but for declared
 * differences, which its output names with their reasons.
 */
export function judgeFingerprint(
  name: string,
  own: PointResult,
  baseline: { host: string; result: PointResult },
  declared: readonly FingerprintDifference[],
): { result: PointResult; used: FingerprintDifference[] } {
  const section = sectionOf(name)
  if (section === undefined || !own.fingerprint) return { result: own, used: [] }
  const { host, result: other } = baseline
  if (!other.fingerprint) {
    const reason = `not compared: ${host} has none (${other.verdict}${other.reason ? `: ${other.reason}` : ''})`
    return { result: { ...own, verdict: 'fail', reason }, used: [] }
  }
  const { lines, excused, used } = compareFingerprints(section, other.fingerprint, own.fingerprint, declared)
  const said = excused.map(({ line, reason }) => `${line} (${reason})`)
  const output = [
    ...lines,
    ...(said.length > 0 ? ['declared:', ...said] : []),
    `all of ${name}:`,
    own.output,
  ].join('\n')
  if (lines.length === 0) return { result: said.length > 0 ? { ...own, output } : own, used }
  const keys = lines.length / 2
  const reason = `${keys} ${keys === 1 ? 'value differs' : 'values differ'} from ${host}: ${lines[0]} ${lines[1]}`
  return { result: { ...own, verdict: 'fail', reason, output }, used }
}
