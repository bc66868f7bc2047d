/**
 * Footprints: the parts of KVM's API that a tool of some version uses, one file a tool in `data/`. With them a
 * difference between profiles names who can see it.
 */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { KvitestError } from '../../native/error.ts'
import type { ToolsOf } from '../profile/diff.ts'

export interface Footprint {
  /** `kvitest VMM` */
  tool: string
  version: string
  /** How it was found: by the tool's sources, or by its system calls. */
  from: 'sources' | 'trace'
  /** Names of the catalogue (ioctls, capabilities, exit reasons) and of MSRs (`MSR_TSC`), sorted. */
  uses: string[]
}

export const footprintDirectory = fileURLToPath(new URL('data/', import.meta.url))

/** Keys of a profile that do not name their ioctl. */
const ioctlOf: [RegExp, string][] = [
  [/^cpuid\.supported\b/, 'KVM_GET_SUPPORTED_CPUID'],
  [/^cpuid\.emulated\b/, 'KVM_GET_EMULATED_CPUID'],
  [/^cpuid\.hyperv\b/, 'KVM_GET_SUPPORTED_HV_CPUID'],
  [/^msr\.index\b/, 'KVM_GET_MSR_INDEX_LIST'],
  [/^msr\.feature\b/, 'KVM_GET_MSR_FEATURE_INDEX_LIST'],
  [/^stats\./, 'KVM_GET_STATS_FD'],
  [/^device\./, 'KVM_CREATE_DEVICE'],
  [/^attr\./, 'KVM_HAS_DEVICE_ATTR'],
  [/^exit\./, 'KVM_RUN'],
]

/** Names that a key stands for. A capability is named before the ioctl that enables it: that one is used for others too. */
export function namesOf(key: string): string[] {
  const named = key.split('.').filter((part) => /^(KVM|MSR)_/.test(part))
  const capability = named.find((name) => name.startsWith('KVM_CAP_'))
  if (capability !== undefined) return [capability]
  // Who goes by the list does not mind which are in it; who names one does.
  if (/^msr\.index\.MSR_/.test(key)) return named
  const ioctl = ioctlOf.find(([pattern]) => pattern.test(key))?.[1]
  return ioctl === undefined ? named : [...named, ioctl]
}

function check(value: unknown, place: string): Footprint {
  const { tool, version, from, uses } = (value ?? {}) as Partial<Footprint>
  const isWhole =
    typeof tool === 'string' &&
    typeof version === 'string' &&
    (from === 'sources' || from === 'trace') &&
    Array.isArray(uses) &&
    uses.every((name) => typeof name === 'string')
  if (isWhole) return value as Footprint
  throw new KvitestError('read the footprints', `${place}: not a footprint`, {
    code: 'EILSEQ',
    hint: 'it has tool, version, from (sources or trace) and uses (a list of names)',
    infra: false,
  })
}

/** All footprints of a directory; none when it is not there. */
export async function readFootprints(directory = footprintDirectory): Promise<Footprint[]> {
  const files = (await readdir(directory).catch(() => [])).filter((name) => name.endsWith('.json')).sort()
  return await Promise.all(
    files.map(async (name) => {
      const path = join(directory, name)
      const text = await readFile(path, 'utf8')
      let value: unknown
      try {
        value = JSON.parse(text)
      } catch {
        value = undefined
      }
      return check(value, path)
    }),
  )
}

/** Who uses what a key of a profile is about: `kvitest VMM 0.1.0`. */
export function toolsByKey(footprints: readonly Footprint[]): ToolsOf {
  const compiled = footprints.map((one) => ({ name: `${one.tool} ${one.version}`, uses: new Set(one.uses) }))
  return (key) => {
    const names = namesOf(key)
    return compiled.filter(({ uses }) => names.some((name) => uses.has(name))).map(({ name }) => name)
  }
}
