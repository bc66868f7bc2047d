/** Joins what the compiler and api.rst say into one version's data, and tells where they disagree. */
import type { HeaderFacts } from '../headers/compile.ts'
import { type ApiText, type FdKind, readArchitectures, readErrnos, readFdKinds, type Section } from './rst.ts'
import type { CapabilityData, CatalogueData, ExitReasonData, IoctlData, StructData } from './types.ts'

export interface CatalogueInput {
  x86: HeaderFacts
  arm64: HeaderFacts
  api: ApiText
  /** Text of linux/kvm.h, for what no compiler keeps: which exit a member of kvm_run belongs to. */
  header: string
}

/** What neither header nor api.rst says of an ioctl, with the reason to believe it. */
export interface Addition {
  fd: FdKind[]
  arch: string[]
  reason: string
}

export type Additions = Readonly<Record<string, Addition>>

export interface Built {
  data: Omit<CatalogueData, 'version' | 'sources'>
  /** One line for each thing that the sources say differently. */
  disagreements: string[]
}

const macroPattern = /^_IO(R|W|WR)?\(\s*KVMIO\s*,\s*(0x[0-9a-fA-F]+)\s*(?:,\s*(.+?)\s*)?\)$/

/** `kvm_regs` of `struct kvm_regs`, `u32` of `__u32`. */
function argumentType(text: string | undefined): string | undefined {
  if (text === undefined) return undefined
  const plain = text.replace(/^(struct|union)\s+/, '').replace(/\s*\*$/, '*')
  if (plain === 'unsigned long') return 'u64'
  return plain.replace(/^__([us]\d+)$/, '$1')
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`
}

/** `_IOC` of include/uapi/asm-generic/ioctl.h: bits 0-7 number, 8-15 type, 16-29 size, 30-31 direction. */
function requestSize(request: bigint): number {
  return Number((request >> 16n) & 0x3fffn)
}

function scalarSize(type: string): number | undefined {
  const bits = /^[us](\d+)$/.exec(type)?.[1]
  return bits === undefined ? undefined : Number(bits) / 8
}

/**
 * Capabilities of an ioctl. `basic, KVM_CAP_X for KVM_Y` makes all but KVM_Y basic; what else follows `basic` is for
 * some uses of the ioctl only.
 */
function capabilitiesIn(name: string, text: string): string[] {
  const own = [...text.matchAll(/\b(KVM_CAP_[A-Z0-9_]+) for (KVM_[A-Z0-9_]+)/g)]
  const isMine = own.filter(([, , ioctl]) => ioctl === name).map(([, cap]) => cap!)
  if (own.length > 0 || /^basic\b/.test(text)) return isMine
  return [...new Set(text.match(/\bKVM_CAP_[A-Z0-9_]+/g) ?? [])]
}

class Builder {
  readonly #input: CatalogueInput
  readonly #additions: Additions
  readonly disagreements: string[] = []

  constructor(input: CatalogueInput, additions: Additions) {
    this.#input = input
    this.#additions = additions
  }

  #disagree(line: string): void {
    this.disagreements.push(line)
  }

  #value(name: string): bigint | undefined {
    const { x86, arm64 } = this.#input
    return x86.macros.get(name)?.value ?? arm64.macros.get(name)?.value
  }

  #sections(): Map<string, Section> {
    const { api, x86, arm64 } = this.#input
    const sections = new Map<string, Section>()
    for (const section of api.ioctls) {
      for (const name of section.names) {
        if (!x86.macros.has(name) && !arm64.macros.has(name))
          this.#disagree(`${name}: api.rst ${section.number} documents it, the header does not have it`)
        else if (sections.has(name)) this.#disagree(`${name}: api.rst documents it twice`)
        else sections.set(name, section)
      }
    }
    return sections
  }

  #documented(
    name: string,
    section: Section | undefined,
  ): Pick<IoctlData, 'fd' | 'cap' | 'arch' | 'errnos' | 'doc'> {
    const addition = this.#additions[name]
    if (!section) return { fd: addition?.fd ?? [], cap: [], arch: addition?.arch ?? [], errnos: [] }
    const { number, fields } = section
    if (addition && fields.get('type') && fields.get('architectures'))
      this.#disagree(`${name}: api.rst ${number} documents it, additions.ts need not`)
    const cap = capabilitiesIn(name, fields.get('capability') ?? '')
    for (const one of cap) {
      if (this.#value(one) === undefined)
        this.#disagree(`${name}: api.rst ${number} asks for ${one}, the header does not have it`)
    }
    for (const field of ['capability', 'architectures', 'type']) {
      if (!fields.get(field)) this.#disagree(`${name}: api.rst ${number} has no ${field} field`)
    }
    const said = readArchitectures(fields.get('architectures') ?? '')
    const arch = fields.get('architectures') ? said : (addition?.arch ?? [])
    const fd = readFdKinds(fields.get('type') ?? '')
    return { fd, cap, arch, errnos: readErrnos(section), doc: number }
  }

  #checkSize(name: string, type: string, size: number): void {
    const { structs } = this.#input.x86
    const known = structs.get(type)?.size ?? scalarSize(type)
    if (known !== undefined && known !== size)
      this.#disagree(`${name}: its number says ${size} bytes, ${type} has ${known}`)
  }

  /** The argument's type: the header's, or api.rst's where the header has an ioctl without one. */
  #argument(name: string, section: Section | undefined, type: string | undefined): string | undefined {
    const said = [...(section?.fields.get('parameters') ?? '').matchAll(/\bstruct\s+(\w+)/g)].map(
      (match) => match[1]!,
    )
    if (section === undefined || said.length === 0 || (type !== undefined && said.includes(type))) return type
    const header = type === undefined ? 'no argument' : `struct ${type}`
    this.#disagree(`${name}: api.rst ${section.number} takes struct ${said.join(', ')}, the header ${header}`)
    return type ?? said[0]
  }

  ioctls(): Record<string, IoctlData> {
    const { x86, arm64 } = this.#input
    const sections = this.#sections()
    const ioctls: Record<string, IoctlData> = {}
    const bodies = new Map([...arm64.macros, ...x86.macros])
    for (const [name, { body }] of bodies) {
      // __KVM_DEPRECATED_VM_R_0x70: kept so that nobody takes the number again.
      if (name.startsWith('__')) continue
      const match = macroPattern.exec(body)
      if (!match) {
        if (/\bKVMIO\b/.test(body) && name !== 'KVMIO') this.#disagree(`${name}: cannot be read: ${body}`)
        continue
      }
      const section = sections.get(name)
      const declared = argumentType(match[3])
      const request = x86.macros.get(name)?.value
      const other = arm64.macros.get(name)?.value
      const size = requestSize(request ?? other ?? 0n)
      if (request !== undefined && declared !== undefined) this.#checkSize(name, declared, size)
      const type = this.#argument(name, section, declared)
      const documented = this.#documented(name, section)
      const isForX86 = documented.arch.includes('all') || documented.arch.includes('x86')
      if (request === undefined && documented.arch.includes('x86'))
        this.#disagree(`${name}: api.rst ${documented.doc} says x86, it does not compile there`)
      if (documented.fd.length === 0 && (isForX86 || (!section && request !== undefined)))
        this.#disagree(`${name}: no source says on which kind of file descriptor it works`)
      ioctls[name] = {
        nr: Number.parseInt(match[2]!, 16),
        dir: (match[1] ?? '').toLowerCase().replace('wr', 'rw') as IoctlData['dir'],
        ...(type === undefined ? {} : { struct: type }),
        size,
        ...(request === undefined ? {} : { request: hex(request) }),
        ...(other === undefined || other === request ? {} : { requestArm64: hex(other) }),
        ...documented,
      }
    }
    return ioctls
  }

  capabilities(): Record<string, CapabilityData> {
    const { api, x86, arm64 } = this.#input
    const capabilities: Record<string, CapabilityData> = {}
    const owners = new Map<number, string>()
    for (const name of new Set([...x86.macros.keys(), ...arm64.macros.keys()])) {
      const value = this.#value(name)
      if (!name.startsWith('KVM_CAP_') || value === undefined) continue
      const number = Number(value)
      const owner = owners.get(number)
      if (owner) this.#disagree(`${name}: has the value ${number} of ${owner}`)
      owners.set(number, name)
      capabilities[name] = { value: number }
    }
    const enabling: Record<string, ('vcpu' | 'vm')[]> = { 6: ['vcpu'], 7: ['vm'], 8: [] }
    for (const section of api.capabilities) {
      for (const name of section.names) {
        const entry = capabilities[name]
        if (!entry) {
          if (name.startsWith('KVM_CAP_'))
            this.#disagree(`${name}: api.rst ${section.number} documents it, the header does not have it`)
          continue
        }
        const chapter = section.number.split('.')[0]!
        const enable = new Set([...(entry.enable ?? []), ...enabling[chapter]!])
        const arch = readArchitectures(section.fields.get('architectures') ?? '')
        if (enable.size > 0) entry.enable = [...enable]
        if (arch.length > 0) entry.arch = [...new Set([...(entry.arch ?? []), ...arch])]
        entry.doc = entry.doc ? `${entry.doc} ${section.number}` : section.number
      }
    }
    return capabilities
  }

  exitReasons(): Record<string, ExitReasonData> {
    const { api, x86, header } = this.#input
    const members = exitMembers(header)
    const exits: Record<string, ExitReasonData> = {}
    const sub = new Set(['KVM_EXIT_IO_IN', 'KVM_EXIT_IO_OUT'])
    let isRun = false
    for (const [name, { value }] of x86.macros) {
      // The reasons are one run of definitions; what else begins like them belongs to one of them.
      if (name === 'KVM_EXIT_UNKNOWN') isRun = true
      else if (isRun && !name.startsWith('KVM_EXIT_')) break
      if (!isRun || value === undefined) continue
      const member = members.get(name)
      exits[name] = {
        value: Number(value),
        ...(member ? { member } : {}),
        documented: api.exitReasons.has(name),
      }
    }
    const fields = x86.structs.get('kvm_run')?.fields ?? {}
    for (const [name, { member }] of Object.entries(exits)) {
      if (member && !(member in fields)) this.#disagree(`${name}: kvm_run has no member ${member}`)
    }
    for (const name of api.exitReasons) {
      const isOther = sub.has(name) || Object.keys(exits).some((one) => name.startsWith(`${one}_`))
      if (!(name in exits) && !isOther)
        this.#disagree(`${name}: api.rst 5 names it, the header does not have it`)
    }
    return exits
  }

  structs(): Record<string, StructData> {
    const { x86, arm64 } = this.#input
    return Object.fromEntries(
      [...x86.structs].map(([name, layout]) => {
        const other = arm64.structs.get(name)?.size
        return [
          name,
          { ...layout, ...(other === undefined || other === layout.size ? {} : { sizeArm64: other }) },
        ]
      }),
    )
  }

  constants(taken: ReadonlySet<string>): Record<string, number | string> {
    const { x86 } = this.#input
    const constants: Record<string, number | string> = {}
    const values = [...[...x86.macros].map(([name, { value }]) => [name, value] as const), ...x86.enumerators]
    for (const [name, value] of values) {
      if (value === undefined || taken.has(name)) continue
      constants[name] =
        value <= BigInt(Number.MAX_SAFE_INTEGER) && value >= 0n
          ? Number(value)
          : hex(BigInt.asUintN(64, value))
    }
    return constants
  }
}

/** `KVM_EXIT_MMIO` -> `mmio`, by the comments in struct kvm_run. */
function exitMembers(header: string): Map<string, string> {
  const start = header.indexOf('struct kvm_run {')
  const text = header.slice(start, header.indexOf('\n};', start))
  const members = new Map<string, string>()
  for (const comment of text.matchAll(/\/\*((?:[^*]|\*(?!\/))*KVM_EXIT_(?:[^*]|\*(?!\/))*)\*\//g)) {
    const rest = text.slice(comment.index + comment[0].length).replace(/\/\*[\s\S]*?\*\//g, '')
    const member = memberAt(rest)
    if (!member) continue
    for (const name of comment[1]!.match(/KVM_EXIT_[A-Z0-9_]+/g) ?? []) {
      if (!members.has(name)) members.set(name, member)
    }
  }
  return members
}

/** Name of the member that is declared at the start of a text. */
function memberAt(declarations: string): string | undefined {
  const text = declarations.replace(/^\s*#.*$/gm, '')
  const plain = /^\s*(?:struct \w+|__\w+)\s+(\w+)(?:\[\w+\])?;/.exec(text)
  if (plain) return plain[1]
  if (!/^\s*(struct|union)\s*\{/.test(text)) return undefined
  let depth = 0
  for (let at = text.indexOf('{'); at < text.length; at++) {
    if (text[at] === '{') depth++
    if (text[at] === '}' && --depth === 0) return /^\s*(\w+)/.exec(text.slice(at + 1))?.[1]
  }
  return undefined
}

export function buildCatalogue(input: CatalogueInput, additions: Additions): Built {
  const builder = new Builder(input, additions)
  const ioctls = builder.ioctls()
  const capabilities = builder.capabilities()
  const exitReasons = builder.exitReasons()
  const taken = new Set([ioctls, capabilities, exitReasons].flatMap((one) => Object.keys(one)))
  return {
    data: {
      chapters: input.api.chapters,
      ioctls,
      capabilities,
      exitReasons,
      structs: builder.structs(),
      constants: builder.constants(taken),
    },
    disagreements: builder.disagreements,
  }
}
