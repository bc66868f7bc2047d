/** Typed access to the catalogue of KVM's API. Numbers and layouts come from here; none is written by hand. */
import { readFileSync } from 'node:fs'
import { KvitestError } from '../../native/error.ts'
import type {
  CapabilityData,
  CatalogueData,
  Errno,
  ExitReasonData,
  FdKind,
  Field,
  IoctlData,
  StructData,
} from './types.ts'

export const catalogueVersions = ['6.1', '6.12', '7.3'] as const
export type CatalogueVersion = (typeof catalogueVersions)[number]

/** Which of the catalogue's versions have it: `since` the oldest of them may mean any older kernel too. */
interface Lifetime {
  name: string
  since: CatalogueVersion
  /** First version of the catalogue without it. */
  removed?: CatalogueVersion
}

export interface Ioctl extends IoctlData, Lifetime {}
export interface Capability extends CapabilityData, Lifetime {}
export interface ExitReason extends ExitReasonData, Lifetime {}
export interface Struct extends StructData, Lifetime {}

interface Tables {
  ioctls: Record<string, Ioctl>
  capabilities: Record<string, Capability>
  exitReasons: Record<string, ExitReason>
  structs: Record<string, Struct>
  constants: Record<string, number | string>
}

const loaded = new Map<string, CatalogueData>()

/** The committed data of one version. */
export function catalogueData(version: CatalogueVersion): CatalogueData {
  let data = loaded.get(version)
  if (!data) {
    data = JSON.parse(readFileSync(new URL(`data/${version}.json`, import.meta.url), 'utf8')) as CatalogueData
    loaded.set(version, data)
  }
  return data
}

type Table = 'ioctls' | 'capabilities' | 'exitReasons' | 'structs'

/** Entries of the newest of `versions` that has each, with the lifetime over all versions of the catalogue. */
function merge<T extends Table>(table: T, versions: readonly CatalogueVersion[]): Tables[T] {
  const merged: Record<string, unknown> = {}
  for (const version of versions) {
    for (const [name, entry] of Object.entries(catalogueData(version)[table])) {
      const having = catalogueVersions.filter((one) => name in catalogueData(one)[table])
      const removed = catalogueVersions[catalogueVersions.indexOf(having.at(-1)!) + 1]
      merged[name] = { name, since: having[0], ...(removed ? { removed } : {}), ...entry }
    }
  }
  return merged as Tables[T]
}

function unknown(kind: string, name: string, names: readonly string[], where: string): KvitestError {
  const words = new Set(name.toUpperCase().split('_').slice(1))
  const shared = (one: string) => one.split('_').filter((word) => words.has(word)).length
  const near = names
    .filter((one) => shared(one) > 0)
    .toSorted((a, b) => shared(b) - shared(a) || a.length - b.length)
    .slice(0, 4)
  return new KvitestError('look into the catalogue', `${name}: no such ${kind} in ${where}`, {
    code: 'ENOENT',
    ...(near.length > 0 ? { hint: `near: ${near.join(', ')}` } : {}),
    infra: false,
  })
}

/** KVM's API as of some versions: one, or all of them together. */
export class Catalogue {
  readonly versions: readonly CatalogueVersion[]
  readonly #tables: Tables
  readonly #byRequest = new Map<number, Ioctl[]>()
  readonly #byCapability: Map<number, Capability>
  readonly #byExit: Map<number, ExitReason>

  constructor(versions: readonly CatalogueVersion[]) {
    this.versions = versions
    this.#tables = {
      ioctls: merge('ioctls', versions),
      capabilities: merge('capabilities', versions),
      exitReasons: merge('exitReasons', versions),
      structs: merge('structs', versions),
      constants: Object.assign(
        {},
        ...versions.map((one) => catalogueData(one).constants),
      ) as Tables['constants'],
    }
    for (const ioctl of Object.values(this.#tables.ioctls)) {
      if (ioctl.request === undefined) continue
      const request = Number(ioctl.request)
      this.#byRequest.set(request, [...(this.#byRequest.get(request) ?? []), ioctl])
    }
    this.#byCapability = new Map(Object.values(this.#tables.capabilities).map((one) => [one.value, one]))
    this.#byExit = new Map(Object.values(this.#tables.exitReasons).map((one) => [one.value, one]))
  }

  #find<T>(entries: Record<string, T>, kind: string, name: string): T {
    if (Object.hasOwn(entries, name)) return entries[name]!
    throw unknown(kind, name, Object.keys(entries), this.versions.join(', '))
  }

  get ioctls(): Ioctl[] {
    return Object.values(this.#tables.ioctls)
  }

  get capabilities(): Capability[] {
    return Object.values(this.#tables.capabilities)
  }

  get exitReasons(): ExitReason[] {
    return Object.values(this.#tables.exitReasons)
  }

  get structs(): Struct[] {
    return Object.values(this.#tables.structs)
  }

  /** Throws a KvitestError of code ENOENT for a name that is not there; so do those below. */
  ioctl(name: string): Ioctl {
    return this.#find(this.#tables.ioctls, 'ioctl', name)
  }

  /**
   * Ioctls of one request number on x86, on one kind of file descriptor: architectures share numbers, and so do an
   * ioctl and its successor of another name.
   */
  ioctlsByRequest(request: number, fd?: FdKind): Ioctl[] {
    return (this.#byRequest.get(request) ?? []).filter((one) => fd === undefined || one.fd.includes(fd))
  }

  /** The request number on x86. Throws ENOTSUP for another architecture's ioctl. */
  request(name: string): number {
    const { request } = this.ioctl(name)
    if (request !== undefined) return Number(request)
    throw new KvitestError('look into the catalogue', `${name}: not an ioctl of x86`, {
      code: 'ENOTSUP',
      infra: false,
    })
  }

  /** Bytes that the kernel takes or gives at the argument, without what follows a flexible array; 0 for a number. */
  argumentSize(name: string): number {
    const { size, struct } = this.ioctl(name)
    return size > 0 || struct === undefined ? size : (this.#tables.structs[struct]?.size ?? 0)
  }

  capability(name: string): Capability {
    return this.#find(this.#tables.capabilities, 'capability', name)
  }

  capabilityByValue(value: number): Capability | undefined {
    return this.#byCapability.get(value)
  }

  exitReason(name: string): ExitReason {
    return this.#find(this.#tables.exitReasons, 'exit reason', name)
  }

  exitReasonByValue(value: number): ExitReason | undefined {
    return this.#byExit.get(value)
  }

  struct(name: string): Struct {
    return this.#find(this.#tables.structs, 'structure', name)
  }

  /** `field('kvm_run', 'io.port')`: offset, size, type. */
  field(struct: string, path: string): Field {
    const { fields } = this.struct(struct)
    if (Object.hasOwn(fields, path)) return fields[path]!
    throw unknown('field', `${struct}.${path}`, [], this.versions.join(', '))
  }

  /** Flags and other numbers: `constant('KVM_MEM_LOG_DIRTY_PAGES')`; capabilities and exit reasons have their own. */
  constant(name: string): bigint {
    return BigInt(this.#find(this.#tables.constants, 'constant', name))
  }

  /**
   * Number of a section of api.rst in the newest of these versions that has it: of an ioctl or a capability by its name,
   * of a chapter by its title.
   */
  section(name: string): string | undefined {
    const own = <T>(table: Record<string, T>) => (Object.hasOwn(table, name) ? table[name] : undefined)
    const chapters = Object.assign({}, ...this.versions.map((one) => catalogueData(one).chapters))
    return (
      own(this.#tables.ioctls)?.doc ??
      own(this.#tables.capabilities)?.doc ??
      own(chapters as Record<string, string>)
    )
  }

  /** Names of constants that begin so, in the header's order. */
  constantNames(prefix: string): string[] {
    return Object.keys(this.#tables.constants).filter((name) => name.startsWith(prefix))
  }

  /** Ioctls that api.rst documents for an architecture. */
  documented(arch = 'x86'): Ioctl[] {
    return this.ioctls.filter((one) => one.doc !== undefined && isFor(one.arch, arch))
  }

  /** What api.rst says each of these ioctls can fail with there. */
  errnoPairs(arch = 'x86'): { ioctl: string; errno: Errno }[] {
    return this.documented(arch).flatMap((one) =>
      one.errnos
        .filter((errno) => errno.arch === undefined || errno.arch.includes(arch))
        .map((errno) => ({ ioctl: one.name, errno })),
    )
  }
}

function isFor(arches: readonly string[], arch: string): boolean {
  return arches.includes('all') || arches.includes(arch)
}

const single = new Map<CatalogueVersion, Catalogue>()

/** The API of one kernel line: `catalogueOf('6.1')`. */
export function catalogueOf(version: string): Catalogue {
  const known = catalogueVersions.find((one) => one === version)
  if (known === undefined) {
    throw new KvitestError('look into the catalogue', `${version}: not a version of it`, {
      code: 'ENOENT',
      hint: `it has ${catalogueVersions.join(', ')}`,
      infra: false,
    })
  }
  const found = single.get(known) ?? new Catalogue([known])
  single.set(known, found)
  return found
}

/** The API of all versions together: each entry as the newest version has it. */
export const catalogue = new Catalogue(catalogueVersions)
