/** A profile: what one host's KVM is, as a file. */
import { randomBytes } from 'node:crypto'
import { readFile, rename, rm, writeFile } from 'node:fs/promises'
import { KvitestError } from '../../native/error.ts'
import type { Entries } from './session.ts'

export const profileKind = 'kvitest KVM profile'
export const profileSchema = 1

export interface Profile {
  kind: typeof profileKind
  /** Of this layout and of what the keys mean. */
  schema: number
  /** Where it was taken: `accelerator`, `cpu.model name`, `kernel.release`, `config.CONFIG_KVM`, `parameter.kvm.tdp_mmu`... */
  environment: Entries
  /** What KVM's code decides: capabilities, ioctls, flags, exits. */
  abi: Entries
  /** What the CPU, or QEMU in its place, decides as well: CPUID, MSRs, counts of CPUs. */
  machine: Entries
  /** Keys of the two whose values no two dumps agree on; the values are not kept. */
  volatile: string[]
}

/** Keys in the order that a person expects: `args[2]` before `args[10]`, 0x9 before 0x10. */
function compareKeys(a: string, b: string): number {
  const key = (text: string) =>
    text.replace(/0x[0-9a-f]+|\d+/g, (number) => BigInt(number).toString().padStart(20, '0'))
  const [left, right] = [key(a), key(b)]
  return left < right ? -1 : left > right ? 1 : a < b ? -1 : a > b ? 1 : 0
}

function sorted(entries: Entries): Entries {
  return Object.fromEntries(Object.entries(entries).sort(([a], [b]) => compareKeys(a, b)))
}

/** The file's text: one key a line, sorted, so that a difference is one line of a diff. */
export function renderProfile(profile: Profile): string {
  const { kind, schema, environment, abi, machine } = profile
  const parts = {
    kind,
    schema,
    environment: sorted(environment),
    abi: sorted(abi),
    machine: sorted(machine),
    volatile: profile.volatile.toSorted(compareKeys),
  }
  return `${JSON.stringify(parts, null, 2)}\n`
}

function isEntries(value: unknown): value is Entries {
  return (
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every((one) => typeof one === 'string' || typeof one === 'number')
  )
}

/** Rejects text that is no profile, or one of another schema, with a KvitestError of code EILSEQ. */
export function parseProfile(text: string, origin: string): Profile {
  const broken = (detail: string, hint = 'make it again with kvitest abi dump') =>
    new KvitestError('read the profile', `${origin}: ${detail}`, { code: 'EILSEQ', hint, infra: false })
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    const isCut = text.trimStart().startsWith('{') && text.includes(profileKind)
    throw broken(isCut ? 'a profile that is cut short' : 'no profile: it is not JSON')
  }
  const { kind, schema, environment, abi, machine, volatile } = (value ?? {}) as Partial<Profile>
  if (kind !== profileKind) throw broken('no profile: it is some other JSON')
  if (schema !== profileSchema) {
    throw broken(`its schema is ${String(schema)}, this kvitest reads ${profileSchema}`)
  }
  for (const [name, entries] of Object.entries({ environment, abi, machine })) {
    if (!isEntries(entries)) throw broken(`its part '${name}' is missing or damaged`)
  }
  if (!Array.isArray(volatile) || volatile.some((key) => typeof key !== 'string')) {
    throw broken("its part 'volatile' is missing or damaged")
  }
  return value as Profile
}

/** As parseProfile; also ENOENT and other errnos of a file that cannot be read. */
export async function readProfile(path: string): Promise<Profile> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw new KvitestError('read the profile', `${path}: ${error.code}`, {
      code: error.code,
      hint: 'give a file that kvitest abi dump wrote',
      infra: false,
      cause: error,
    })
  })
  return parseProfile(text, path)
}

/** Whole or not at all: under another name first. */
export async function writeProfile(path: string, profile: Profile): Promise<void> {
  const scratch = `${path}.${process.pid}.${randomBytes(4).toString('hex')}`
  try {
    await writeFile(scratch, renderProfile(profile), { flag: 'wx' })
    await rename(scratch, path)
  } catch (error) {
    await rm(scratch, { force: true })
    const { code } = error as NodeJS.ErrnoException
    throw new KvitestError('write the profile', `${path}: ${code}`, {
      code,
      hint: 'give a path in a directory that is there and may be written',
      infra: false,
      cause: error,
    })
  }
}
