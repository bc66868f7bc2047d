/** A report of the kernel about its own misbehaviour, cut out of a console log. */
export interface Splat {
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
/** Lines of one report come at once; a pause this long, in seconds of kernel time, ends it. */
const reportPause = 1.5

/** `[    1.234567]`, and the caller id of CONFIG_PRINTK_CALLER behind it. */
const timeStamp = /\[\s*(\d+\.\d{6})\](?:\[\s*[TC]\d+\s*\])? /

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
  raw: string
}

function parse(console: string): KernelLine[] {
  const lines = console.split('\n').map((line): KernelLine => {
    const raw = line.endsWith('\r') ? line.slice(0, -1) : line
    const stamp = timeStamp.exec(raw)
    if (!stamp) return { message: raw, time: undefined, raw }
    return { message: raw.slice(stamp.index + stamp[0].length), time: Number(stamp[1]), raw }
  })
  // Programs write to the console too, and their words are not the kernel's: where the kernel stamps, only stamped
  // lines count.
  const stamped = lines.some((line) => line.time !== undefined)
  return stamped ? lines.filter((line) => line.time !== undefined) : lines
}

function beginning(message: string): SplatKind | undefined {
  return beginnings.find(([pattern]) => pattern.test(message))?.[1]
}

/** The index behind the last line of the report that begins at `start`. */
function reportEnd(lines: readonly KernelLine[], start: number): number {
  const limit = Math.min(lines.length, start + maxReportLines)
  let traced = false
  for (let at = start; at < limit; at++) {
    const { message, time } = lines[at]!
    const next = lines[at + 1]
    if (hardEnd.test(message)) return at + 1
    if (!next) break
    if (time !== undefined && next.time !== undefined && next.time - time > reportPause) return at + 1
    // A panic is a report of its own, also in the wake of an oops.
    if (beginning(next.message) === 'panic') return at + 1
    traced ||= message.trim() === '</TASK>'
    if (traced && !continuation.test(next.message)) return at + 1
  }
  return limit
}

/** Finds the splats in a kernel log, in order. `BUG:` and the `Oops:` that follows it are one. Linear time. */
export function findSplats(console: string): Splat[] {
  const lines = parse(console)
  const splats: Splat[] = []
  for (let at = 0; at < lines.length; ) {
    const kind = beginning(lines[at]!.message)
    if (!kind) {
      at++
      continue
    }
    const end = reportEnd(lines, at)
    const report = lines.slice(at, end)
    splats.push({ kind, title: lines[at]!.message.trim(), text: report.map(({ raw }) => raw).join('\n') })
    at = end
  }
  return splats
}
