import { type SplatDetails, splatDetails } from './splat-details.ts'

/** A report of the kernel about its own misbehaviour, cut out of a console log. */
export interface Splat extends SplatDetails {
  kind: SplatKind
  /** Its first line, without the time stamp. */
  title: string
  /** The whole report as the console showed it. */
  text: string
}

export type SplatKind =
  | 'panic'
  | 'oops'
  | 'bug'
  | 'warning'
  | 'kasan'
  | 'lockdep'
  | 'rcu-stall'
  | 'soft-lockup'
  | 'hard-lockup'
  | 'hung-task'
  | 'ubsan'
  | 'interrupt'

const maxReportLines = 300
/** A guest that reports without end has made its point by then. */
const maxReports = 100
/** Lines of one report come at once; a pause this long, in seconds of kernel time, ends it. */
const reportPause = 1.5

/** `[    1.234567]`, and the caller id of CONFIG_PRINTK_CALLER behind it. */
const timeStamp = /\[\s*(\d+\.\d{6})\](?:\[\s*([TC]\d+)\s*\])? /

/** How reports begin, as 6.1 to 6.18 print them; the first that matches names the kind. */
const beginnings: [RegExp, SplatKind][] = [
  [/^Kernel panic - not syncing/, 'panic'],
  [/^(watchdog: )?BUG: soft lockup/, 'soft-lockup'],
  [/^(NMI watchdog: |watchdog: )?(Watchdog|CPU\d+: Watchdog) detected hard LOCKUP/, 'hard-lockup'],
  [/^BUG: (KASAN|KFENCE|KMSAN|KCSAN):/, 'kasan'],
  [/^BUG: (kernel NULL pointer dereference|unable to handle )/, 'oops'],
  [/^BUG: (MAX_LOCK|Invalid wait context|using [\w_]+\(\) in preemptible)/, 'lockdep'],
  [/^\[ BUG: Invalid wait context \]/, 'lockdep'],
  [/^BUG: /, 'bug'],
  [/^kernel BUG at /, 'bug'],
  // `Oops: 0002 [#1] PREEMPT SMP`, `general protection fault, ...: 0000 [#1]`, 6.12's `Oops: invalid opcode: 0000 [#1]`
  [/^.{1,160}: [0-9a-f]{4} \[#\d+\]/, 'oops'],
  [/^(Oops: )?general protection fault\b/, 'oops'],
  [/^Oops: /, 'oops'],
  [/^(WARNING|INFO): possible (circular|recursive|irq|deadlock|unsafe|bad|lock)/, 'lockdep'],
  [
    /^WARNING: (suspicious RCU usage|inconsistent lock state|bad unlock balance|bad contention|held lock freed|lock held when returning|Nested lock was not taken|[\w-]+-safe -> [\w-]+-unsafe lock order|SOFTIRQ-|HARDIRQ-)/,
    'lockdep',
  ],
  [/^INFO: trying to register non-static key/, 'lockdep'],
  // 6.1 and 6.12 name the CPU first, 6.18 the place
  [/^WARNING: (CPU: \d+ PID: \d+|[\w./-]+:\d+) at /, 'warning'],
  [/^WARNING: (stack recursion|kernel stack|can't (dereference|access) )/, 'warning'],
  [/^(rcu: )?INFO: (rcu\w*|rcu_\w+)( \w+)* (self-)?detected (expedited )?stall/, 'rcu-stall'],
  [/^INFO: task .+ blocked (for more than|in I\/O wait for more than) \d+ seconds/, 'hung-task'],
  [/^UBSAN: /, 'ubsan'],
  [/^irq \d+: nobody cared/, 'interrupt'],
]

/** The second title of a report that began with `BUG:`; never the first line of another CPU's. */
const dieLine = /^Oops: |\[#\d+\]/

/** What a report ends with. */
const hardEnd = /^---\[ end (trace|Kernel panic)/

/** Lines of the same report that may follow its first back trace. */
const continuation =
  /^($|\s|>|<\/?\w+>|RIP:|RSP:|R[A-D]X:|RBP:|R\d\d:|FS:|CS:|CR[0-4]:|DR\d:|PKRU:|Code:|Call Trace|Modules linked in|Tainted|CPU:|Hardware name|note:|---\[|Kernel Offset|Allocated by|Freed by|The buggy|Memory state|page:|raw:|Sending NMI|NMI backtrace|rcu:|stack backtrace|Kernel panic|=+$)/

interface KernelLine {
  /** Without stamp and carriage return. */
  message: string
  /** Seconds; undefined for a line without stamp. */
  time: number | undefined
  /** `T123` or `C0` where the kernel tells who printed; empty where it does not. */
  caller: string
  raw: string
}

function parse(console: string): KernelLine[] {
  const lines = console.split('\n').map((line): KernelLine => {
    const raw = line.endsWith('\r') ? line.slice(0, -1) : line
    const stamp = timeStamp.exec(raw)
    if (!stamp) return { message: raw, time: undefined, caller: '', raw }
    const message = raw.slice(stamp.index + stamp[0].length)
    return { message, time: Number(stamp[1]), caller: stamp[2] ?? '', raw }
  })
  // Programs write to the console too, and their words are not the kernel's: where the kernel stamps, only stamped
  // lines count.
  const stamped = lines.some((line) => line.time !== undefined)
  return stamped ? lines.filter((line) => line.time !== undefined) : lines
}

function beginning(message: string): SplatKind | undefined {
  return beginnings.find(([pattern]) => pattern.test(message))?.[1]
}

/** Whether a line of a console, with or without the kernel's time stamp, is the first of a splat. */
export function beginsSplat(line: string): boolean {
  const stamp = timeStamp.exec(line)
  return beginning(stamp ? line.slice(stamp.index + stamp[0].length) : line) !== undefined
}

/**
 * The lines of the report that begins at `start`. Several CPUs may print at once. Where the kernel names the caller
 * of each line, those of others are left out, but for the back traces that the report asked other CPUs for. Where it
 * does not, every line up to the report's end belongs to it: a report with a stranger's line in it can be read, one
 * that lacks its own cannot.
 */
function reportAt(lines: readonly KernelLine[], start: number): KernelLine[] {
  const { caller } = lines[start]!
  const report: KernelLine[] = []
  let last = lines[start]!
  let isTraced = false
  /** Reports begun and not ended, among lines that nobody can tell apart. */
  let open = 1
  let asksOthers = false
  for (let at = start; at < lines.length && report.length < maxReportLines; at++) {
    const line = lines[at]!
    const { message, time } = line
    if (line.caller !== caller && !asksOthers) continue
    const isFirst = at === start
    if (!isFirst) {
      if (time !== undefined && last.time !== undefined && time - last.time > reportPause) break
      const kind = beginning(message)
      // A panic is a report of its own, also in the wake of an oops.
      if (kind === 'panic') break
      if (kind !== undefined && !dieLine.test(message)) open++
      if (isTraced && open === 1 && !continuation.test(message)) break
    }
    report.push(line)
    last = line
    asksOthers ||= /^Sending NMI from CPU/.test(message)
    isTraced ||= message.trim() === '</TASK>'
    if (hardEnd.test(message) && --open === 0) break
  }
  return report
}

/**
 * Finds the splats in a kernel log, in the order in which they begin. `BUG:` and the `Oops:` that follows it are one.
 * At most 100, each of at most 300 lines.
 */
export function findSplats(console: string): Splat[] {
  const lines = parse(console)
  const splats: Splat[] = []
  /** By caller: its line up to which everything belongs to a report that was found. */
  const covered = new Map<string, KernelLine>()
  for (let at = 0; at < lines.length && splats.length < maxReports; at++) {
    const { message, caller } = lines[at]!
    const within = covered.get(caller)
    const kind = beginning(message)
    if (within === lines[at]) covered.delete(caller)
    if (kind === undefined) continue
    // The second title of a report, not another report.
    if (within !== undefined && kind !== 'panic' && dieLine.test(message)) continue
    const report = reportAt(lines, at)
    const own = report.findLast((line) => line.caller === caller)!
    if (own !== lines[at]) covered.set(caller, own)
    splats.push({
      kind,
      title: message.trim(),
      text: report.map(({ raw }) => raw).join('\n'),
      ...splatDetails(report.map((line) => line.message)),
    })
  }
  return splats
}
