/** Holds a kernel's configuration, and the modules beside it, against what a purpose needs. */
import type { ModuleIndex } from '../modules.ts'
import type { KernelConfig } from './dot-config.ts'
import { type Purpose, type Requirement, requirements } from './requirements.ts'

export interface Lack {
  purpose: Purpose
  level: Requirement['level']
  /** `CONFIG_VIRTIO_PCI`, or the file of a module. */
  what: string
  /** What it is now: `not set`, `m`... */
  is: string
  /** What it should be. */
  want: string
  why: string
  /** Line of a configuration fragment; none for a module file that is missing. */
  line?: string
}

function isMet(requirement: Requirement, config: KernelConfig): boolean {
  const { symbol, or = [], want } = requirement
  return [symbol, ...or].some((one) => {
    const value = config.values.get(one)
    if (want === 'n') return value === undefined
    return value === 'y' || (want === 'm' && value === 'm')
  })
}

function lackOf(purpose: Purpose, requirement: Requirement, config: KernelConfig): Lack {
  const { symbol, or = [], want, level, why } = requirement
  // Without loadable modules a driver is built in or nowhere.
  const value = want === 'm' && !config.values.has('MODULES') ? 'y' : want
  const texts = { y: 'y', m: 'm or y', n: 'not set' }
  return {
    purpose,
    level,
    what: [symbol, ...or].map((one) => `CONFIG_${one}`).join(' or '),
    is: config.values.get(symbol) ?? 'not set',
    want: texts[value],
    why,
    line: value === 'n' ? `# CONFIG_${symbol} is not set` : `CONFIG_${symbol}=${value}`,
  }
}

function lackingModule(
  purpose: Purpose,
  requirement: Requirement,
  config: KernelConfig,
  modules: Pick<ModuleIndex, 'has'> | undefined,
): Lack | undefined {
  const { module, symbol, level, why } = requirement
  if (module === undefined || modules === undefined || config.values.get(symbol) !== 'm') return undefined
  if (modules.has(module)) return undefined
  const is = `absent, though CONFIG_${symbol}=m`
  return { purpose, level, what: `module ${module}`, is, want: 'beside the kernel', why }
}

/** What is missing, what is needed first. Without `modules` only the configuration is looked at. */
export function checkConfig(
  config: KernelConfig,
  purpose: Purpose,
  modules?: Pick<ModuleIndex, 'has'>,
): Lack[] {
  const lacks = requirements[purpose].flatMap((requirement) => {
    if (!isMet(requirement, config)) return [lackOf(purpose, requirement, config)]
    return lackingModule(purpose, requirement, config, modules) ?? []
  })
  return lacks.toSorted((a, b) => Number(a.level === 'useful') - Number(b.level === 'useful'))
}

/** A configuration fragment for scripts/kconfig/merge_config.sh; a symbol that several purposes want is there once. */
export function renderFragment(kernel: string, lacks: readonly Lack[]): string {
  const lines = new Map<string, string>()
  for (const { line, purpose, level, why } of lacks) {
    if (line === undefined) continue
    const symbol = /CONFIG_\w+/.exec(line)![0]
    // Built in satisfies everybody who takes a module.
    const isStronger = lines.get(symbol)?.endsWith('=m') && line.endsWith('=y')
    if (!lines.has(symbol) || isStronger) lines.set(symbol, `# ${purpose}, ${level}: ${why}\n${line}`)
  }
  if (lines.size === 0) return `# ${kernel} lacks nothing\n`
  return `# What ${kernel} lacks, for scripts/kconfig/merge_config.sh\n${[...lines.values()].join('\n')}\n`
}
