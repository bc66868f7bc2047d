/** Reads Documentation/virt/kvm/api.rst: what is said of each ioctl, capability and exit reason. */
import { constants } from 'node:os'
import { KvitestError } from '../../native/error.ts'

/** The kind of file descriptor that an ioctl is issued on. */
export type FdKind = 'sys' | 'vm' | 'vcpu' | 'dev'

export interface Errno {
  code: string
  when: string
  /** Said in the section's table of errors, in its `Returns` field, or somewhere in its text. */
  source: 'errtable' | 'returns' | 'prose'
  /** Only on these architectures, where the text says so. */
  arch?: string[]
}

export interface Section {
  /** `4.35`; numbers repeat, so this is no key. */
  number: string
  title: string
  /** `KVM_...` names in the title. */
  names: string[]
  /** Lines of the field list by lower-case name: `capability`, `type`... */
  fields: Map<string, string>
  body: string
}

export interface ApiText {
  ioctls: Section[]
  capabilities: Section[]
  /** Numbers of the chapters, by title. */
  chapters: Record<string, string>
  /** Exit reasons named in the chapter on struct kvm_run. */
  exitReasons: Set<string>
}

const architectures = ['x86', 'arm64', 's390', 'ppc', 'mips', 'riscv', 'loongarch']

function layoutChanged(name: string, detail: string): KvitestError {
  return new KvitestError('read api.rst', `${name}: ${detail}`, {
    code: 'EILSEQ',
    hint: 'its layout is not the one that src/abi/catalogue/rst.ts knows; nothing was written',
    infra: false,
  })
}

/** `KVM_(UN)REGISTER_X` stands for two, `KVM_A, KVM_B` and `KVM_A/KVM_B` too. */
function namesIn(title: string): string[] {
  const optional = /(\w+)\((\w+)\)(\w+)/.exec(title)
  const expanded = optional
    ? `${optional[1]}${optional[3]} ${optional[1]}${optional[2]}${optional[3]}`
    : title
  return expanded.match(/\bKVM_[A-Z0-9_]+/g) ?? []
}

function readFields(lines: string[]): { fields: Map<string, string>; rest: string[] } {
  const fields = new Map<string, string>()
  let at = 0
  let last: string | undefined
  for (; at < lines.length; at++) {
    const line = lines[at]!
    // Two sections lack the colon that ends a field's name.
    const field = /^:(\w[\w ]*?):\s*(.*)$/.exec(line) ?? /^:([A-Z]\w*)\s+(.*)$/.exec(line)
    if (field) {
      last = field[1]!.toLowerCase().replace(/^architecture$/, 'architectures')
      fields.set(last, field[2]!.trim())
    } else if (last !== undefined && /^\s+\S/.test(line)) {
      fields.set(last, `${fields.get(last)}\n${line.trim()}`)
    } else if (line.trim() !== '') break
    else if (fields.size > 0 && !/^:\w/.test(lines[at + 1] ?? '')) break
  }
  return { fields, rest: lines.slice(at) }
}

interface Heading {
  line: number
  chapter: number
  number: string
  title: string
}

function headings(lines: readonly string[]): Heading[] {
  return lines.flatMap((line, at) => {
    const match = /^(\d+)\.(\d+)?\.? +(\S.*)$/.exec(line)
    const underline = lines[at + 1] ?? ''
    if (!match || !/^([=~^-])\1{3,}$/.test(underline)) return []
    const number = match[2] === undefined ? match[1]! : `${match[1]}.${match[2]}`
    return [{ line: at, chapter: Number(match[1]), number, title: match[3]!.trim() }]
  })
}

/** `name` is for errors. Rejects with a KvitestError of code EILSEQ when the text is not laid out as expected. */
export function parseApi(text: string, name: string): ApiText {
  const lines = text.split('\n')
  const found = headings(lines)
  const sections = found.map((heading, index): Section & { chapter: number } => {
    const end = found[index + 1]?.line ?? lines.length
    const { fields, rest } = readFields(lines.slice(heading.line + 2, end))
    const { number, title, chapter } = heading
    return { number, title, chapter, names: namesIn(title), fields, body: rest.join('\n') }
  })
  const inChapter = (chapter: number) =>
    sections.filter((one) => one.chapter === chapter && one.number.includes('.'))
  const run = sections.filter((one) => one.chapter === 5)
  const api: ApiText = {
    ioctls: inChapter(4),
    capabilities: [6, 7, 8].flatMap(inChapter),
    chapters: Object.fromEntries(
      sections.filter((one) => !one.number.includes('.')).map((one) => [one.title, one.number]),
    ),
    exitReasons: new Set(run.flatMap((one) => one.body.match(/\bKVM_EXIT_[A-Z0-9_]+/g) ?? [])),
  }
  const expect = (what: string, count: number, least: number) => {
    if (count < least) throw layoutChanged(name, `${count} ${what} where at least ${least} were expected`)
  }
  expect('sections on ioctls', api.ioctls.length, 100)
  expect('sections on capabilities', api.capabilities.length, 50)
  expect('exit reasons in the chapter on struct kvm_run', api.exitReasons.size, 20)
  for (const field of ['architectures', 'type', 'parameters']) {
    const having = api.ioctls.filter((one) => one.fields.get(field)).length
    expect(`sections on ioctls with the field ${field}`, having, Math.ceil(api.ioctls.length * 0.95))
  }
  const nameless = api.ioctls.find((one) => one.names.length === 0)
  if (nameless) throw layoutChanged(name, `section ${nameless.number} (${nameless.title}) names no ioctl`)
  return api
}

/** `['x86', 'arm64']`; `all` stands for all of them. */
export function readArchitectures(text: string): string[] {
  const words = text.toLowerCase().replaceAll('powerpc', 'ppc')
  const named = architectures.filter((arch) => new RegExp(`\\b${arch}\\b`).test(words))
  if (!words.startsWith('all')) return named
  return words.includes('except') ? architectures.filter((arch) => !named.includes(arch)) : ['all']
}

export function readFdKinds(text: string): FdKind[] {
  const kinds: [RegExp, FdKind][] = [
    [/\bsystem\b/i, 'sys'],
    [/\bvm\b/i, 'vm'],
    [/\bvcpu\b/i, 'vcpu'],
    [/\bdevice\b/i, 'dev'],
  ]
  return kinds.filter(([pattern]) => pattern.test(text)).map(([, kind]) => kind)
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, ' ').trim()
}

/** Constants of one architecture carry its name: KVM_VM_S390_UCONTROL. */
const infixes: Record<string, string> = { s390: 'S390', ppc: 'PPC', arm64: 'ARM' }

/** Architectures that a text names in parentheses or by their constants. */
function archesOf(when: string): { arch?: string[] } {
  const isNamed = (arch: string) =>
    new RegExp(`\\((?:[^)]*\\b)?${arch}\\b[^)]*\\)|\\bKVM_(VM_|CAP_)?${infixes[arch] ?? '-'}_`).test(when)
  const named = architectures.filter(isNamed)
  return named.length > 0 ? { arch: named } : {}
}

/** Rows of the simple tables whose first column is an errno. */
function tableErrnos(body: string): { errnos: Errno[]; rest: string } {
  const errnos: Errno[] = []
  const rest: string[] = []
  let isTable = false
  let current: Errno | undefined
  for (const line of body.split('\n')) {
    if (/^\s+=+\s+=+\s*$/.test(line)) {
      isTable = !isTable || current === undefined
      current = undefined
      continue
    }
    const row = isTable ? /^\s+-?(E[A-Z0-9]{2,})\s+(\S.*)$/.exec(line) : null
    if (row && row[1]! in constants.errno) {
      current = { code: row[1]!, when: row[2]!, source: 'errtable' }
      errnos.push(current)
    } else if (isTable && current && /^\s{4,}\S/.test(line)) current.when += ` ${line.trim()}`
    else {
      rest.push(line)
      if (line.trim() !== '' && /^\S/.test(line)) isTable = false
    }
  }
  return { errnos, rest: rest.join('\n') }
}

/** Parts of a text that name an errno, cut at sentence ends and commas that another errno follows. */
function spokenErrnos(text: string, source: 'returns' | 'prose'): Errno[] {
  const sentences = oneLine(text).split(/(?<=[.;])\s+(?=[A-Z-])|,\s+(?=-E[A-Z]|<)/)
  return sentences.flatMap((sentence) =>
    [...sentence.matchAll(/(?<![A-Z_])-?\b(E[A-Z0-9]{2,})\b/g)]
      .filter(([, code]) => code! in constants.errno)
      .map(([, code]): Errno => ({ code: code!, when: sentence.trim(), source })),
  )
}

/** Errnos that a section documents, each once, from where it says most clearly. */
export function readErrnos(section: Section): Errno[] {
  const table = tableErrnos(section.body)
  const prose = table.rest.split(/\n\s*\n/).flatMap((paragraph) => spokenErrnos(paragraph, 'prose'))
  const all = [...table.errnos, ...spokenErrnos(section.fields.get('returns') ?? '', 'returns'), ...prose]
  const found = new Map<string, Errno>()
  for (const one of all) {
    const when = oneLine(one.when)
    const known = found.get(one.code)
    if (!known) found.set(one.code, { code: one.code, when, source: one.source, ...archesOf(when) })
    else if (known.source === one.source && one.source === 'errtable') {
      // Two rows for one errno: it is limited to architectures only if both are.
      const { arch } = archesOf(when)
      known.when += `; ${when}`
      if (!arch || !known.arch) delete known.arch
      else known.arch = [...new Set([...known.arch, ...arch])]
    }
  }
  return [...found.values()]
}
