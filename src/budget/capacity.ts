import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { KvitestError } from '../native/error.ts'
import { gibibytes, parseSize } from './memory.ts'

/** What guests may take, all together. */
export interface Capacity {
  /** vCPUs. */
  cpus: number
  /** Bytes. */
  memory: number
  /** Guests that boot or fork at the same time. */
  starts: number
}

/** What a person asked for, as far as he did. */
export type Limits = Partial<Capacity>

/**
 * vCPUs for each CPU: a guest waits for its lab, its disk and its sleep far more than it computes, and those that start,
 * which do compute, are bounded apart. With 2 of them, two cores stood idle half the time in `npm test`, and with 6 too.
 */
const overcommit = 16
/** Guests that start at a time, for each CPU: they wait for each other's checkpoints and for room in labs too. */
const startsPerCpu = 4
/** The share of the memory that is there; the rest is for labs, Node, and who else works here. */
const memoryShare = 3 / 4

/** Where the numbers are read; tests have a tree of their own. */
export interface Places {
  proc?: string
  cgroup?: string
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}

/** The control groups that this process is in, the innermost first, up to the root that it can see. */
function controlGroups({ proc = '/proc', cgroup = '/sys/fs/cgroup' }: Places, controller: string): string[] {
  // cgroups(7): `0::/path` is version 2, `4:memory:/path` version 1 with a tree for each controller.
  const lines = (read(join(proc, 'self/cgroup')) ?? '').trim().split('\n')
  for (const line of lines) {
    const [, controllers = '', path = ''] = /^\d+:([^:]*):(.*)$/.exec(line) ?? []
    const isUnified = controllers === ''
    if (!isUnified && !controllers.split(',').includes(controller)) continue
    const base = isUnified ? cgroup : join(cgroup, controller)
    const parts = path.split('/').filter(Boolean)
    return [...parts.keys(), parts.length].reverse().map((count) => join(base, ...parts.slice(0, count)))
  }
  return []
}

/** A bound that was found, and where. */
interface Bound {
  value: number
  from: string
}

function tightest(bounds: readonly Bound[]): Bound {
  return bounds.reduce((least, one) => (one.value < least.value ? one : least))
}

function cpuBound(places: Places): Bound {
  const quotas = controlGroups(places, 'cpu').map((group): Bound => {
    const [quota, period] = (read(join(group, 'cpu.max')) ?? '').trim().split(' ').map(Number)
    if (quota && period) return { value: quota / period, from: `cpu.max of ${group}` }
    const old = Number(read(join(group, 'cpu.cfs_quota_us')) ?? -1)
    const value =
      old > 0 ? old / Number(read(join(group, 'cpu.cfs_period_us')) ?? 100_000) : Number.POSITIVE_INFINITY
    return { value, from: `cpu.cfs_quota_us of ${group}` }
  })
  // The affinity is what a cpuset leaves.
  return tightest([{ value: availableParallelism(), from: 'the affinity of the process' }, ...quotas])
}

/** CPUs that this process may keep busy: its affinity, and the quotas of its control groups. */
export function measureCpus(places: Places = {}): number {
  return Math.max(1, Math.floor(cpuBound(places).value))
}

function memoryBound(places: Places): Bound {
  const text = read(join(places.proc ?? '/proc', 'meminfo')) ?? ''
  const machine = Number(/^MemAvailable:\s+(\d+) kB$/m.exec(text)?.[1] ?? 0) * 1024
  const rooms = controlGroups(places, 'memory').map((group): Bound => {
    const from = `memory.max of ${group}`
    const limit = Number(
      read(join(group, 'memory.max')) ?? read(join(group, 'memory.limit_in_bytes')) ?? Number.NaN,
    )
    if (!Number.isFinite(limit)) return { value: Number.POSITIVE_INFINITY, from }
    const used = Number(
      read(join(group, 'memory.current')) ?? read(join(group, 'memory.usage_in_bytes')) ?? 0,
    )
    // Page cache that nobody uses goes first when memory is short.
    const cache = Number(
      /^(?:total_)?inactive_file (\d+)$/m.exec(read(join(group, 'memory.stat')) ?? '')?.[1] ?? 0,
    )
    return { value: Math.max(0, limit - Math.max(0, used - cache)), from }
  })
  return tightest([{ value: machine, from: 'MemAvailable' }, ...rooms])
}

/** Bytes that can be taken without swapping: MemAvailable, and what the control groups leave. */
export function memoryAvailable(places: Places = {}): number {
  return memoryBound(places).value
}

/** What guests may take here. */
export function measureCapacity(places: Places = {}): Capacity {
  const cpus = measureCpus(places)
  return {
    cpus: cpus * overcommit,
    memory: Math.floor(memoryAvailable(places) * memoryShare),
    starts: startsPerCpu * cpus,
  }
}

/** What guests may take here, and for people where each figure is from. */
export interface ExplainedCapacity extends Capacity {
  from: Record<keyof Capacity, string>
}

export function explainCapacity(places: Places = {}, environment = process.env): ExplainedCapacity {
  const asked = limitsOf(environment)
  const cpus = cpuBound(places)
  const memory = memoryBound(places)
  const count = Math.max(1, Math.floor(cpus.value))
  const cores = `${count} CPU${count === 1 ? '' : 's'} by ${cpus.from}`
  return {
    ...limited(measureCapacity(places), [asked]),
    from: {
      cpus: asked.cpus ? 'KVITEST_BUDGET_CPUS' : `${overcommit} for each of ${cores}`,
      memory: asked.memory
        ? 'KVITEST_BUDGET_MEMORY'
        : `three quarters of ${gibibytes(memory.value)} by ${memory.from}`,
      starts: asked.starts ? 'KVITEST_BUDGET_STARTS' : `${startsPerCpu} for each of ${cores}`,
    },
  }
}

/** KVITEST_BUDGET_CPUS, _MEMORY and _STARTS. Throws a KvitestError for what is no number or size. */
export function limitsOf(environment: NodeJS.ProcessEnv = process.env): Limits {
  const { KVITEST_BUDGET_CPUS, KVITEST_BUDGET_MEMORY, KVITEST_BUDGET_STARTS } = environment
  const limits: Limits = {}
  if (KVITEST_BUDGET_CPUS) limits.cpus = countOf('KVITEST_BUDGET_CPUS', KVITEST_BUDGET_CPUS)
  if (KVITEST_BUDGET_MEMORY) limits.memory = parseSize(KVITEST_BUDGET_MEMORY)
  if (KVITEST_BUDGET_STARTS) limits.starts = countOf('KVITEST_BUDGET_STARTS', KVITEST_BUDGET_STARTS)
  return limits
}

/** A setting that counts something; throws a KvitestError with its name. */
export function countOf(name: string, text: string): number {
  const count = Number(text)
  if (Number.isInteger(count) && count > 0) return count
  throw new KvitestError(`read ${name}`, `${text}: not a positive whole number`, { code: 'EINVAL' })
}

/** The measured capacity, but for what was asked for: of several the least. */
export function limited(measured: Capacity, limits: Iterable<Limits>): Capacity {
  const all = [...limits]
  const least = (what: keyof Capacity): number => {
    const given = all.flatMap((one) => one[what] ?? [])
    return given.length > 0 ? Math.min(...given) : measured[what]
  }
  return { cpus: least('cpus'), memory: least('memory'), starts: least('starts') }
}
