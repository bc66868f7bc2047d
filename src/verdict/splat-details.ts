/** One line of a back trace: `vring_interrupt+0x5d/0x90 [virtio_ring]`. */
export interface TraceFrame {
  function: string
  /** Bytes into the function. */
  offset: number
  module?: string
  /** False behind a `?`: found on the stack, not by the unwinder. */
  reliable: boolean
  /** The stack it was on: `TASK`, `IRQ`, `NMI`, `#DF`... */
  stack: string
}

/** What a report says about itself, as far as it does. */
export interface SplatDetails {
  /** Where it happened, from RIP or from the title. */
  function?: string
  /** The module that the function lies in; absent for the kernel itself. */
  module?: string
  /** `drivers/virtio/virtio_ring.c:1406` */
  place?: string
  cpu?: number
  pid?: number
  comm?: string
  /** `6.12.117+deb12-cloud-amd64` */
  kernelRelease?: string
  /** Letters of the taint as Documentation/admin-guide/tainted-kernels.rst names them; empty for `Not tainted`. */
  taint: string[]
  trace: TraceFrame[]
}

const symbol = /([\w.]+)\+0x([0-9a-f]+)\/0x[0-9a-f]+(?: \[(\w+)\])?/
/** 6.12 puts `UID: 0` between CPU and PID. */
const task =
  /\bCPU: (\d+) (?:UID: \d+ )?PID: (\d+)(?: Comm: (.{1,15}?) (Not tainted|Tainted: [A-Z ]+?) (\d\S*))?/
const rip = /^RIP: [0-9a-f]{4}:(.*)/
const place = /(?:^WARNING: (?:CPU: \d+ PID: \d+ at )?|^kernel BUG at )([\w./-]+\.[chS]:\d+)/
const stackBegins = /^\s*<([#\w]+)>$/
const frame = /^\s*(\? )?([\w.]+)\+0x([0-9a-f]+)\/0x[0-9a-f]+(?: \[(\w+)\])?/

/** Reads the messages of one report, without their time stamps. */
export function splatDetails(messages: readonly string[]): SplatDetails {
  const details: SplatDetails = { taint: [], trace: [] }
  let stack: string | undefined
  let isTrace = false
  for (const message of messages) {
    const begins = stackBegins.exec(message)
    if (begins) {
      stack = begins[1]!
      continue
    }
    if (/^\s*Call Trace:/.test(message)) isTrace = true
    const found = isTrace ? frame.exec(message) : null
    if (found) {
      details.trace.push({
        function: found[2]!,
        offset: Number.parseInt(found[3]!, 16),
        ...(found[4] ? { module: found[4] } : {}),
        reliable: found[1] === undefined,
        stack: stack ?? 'TASK',
      })
      continue
    }
    takeTask(details, message)
    takePlace(details, message)
  }
  if (details.function === undefined) takeFunction(details, messages[0] ?? '')
  const first = details.trace.find(({ reliable }) => reliable)
  if (details.function === undefined && first) {
    details.function = first.function
    if (first.module !== undefined) details.module = first.module
  }
  return details
}

function takeTask(details: SplatDetails, message: string): void {
  const found = task.exec(message)
  if (!found) return
  details.cpu ??= Number(found[1])
  details.pid ??= Number(found[2])
  if (found[3] === undefined || details.comm !== undefined) return
  details.comm = found[3]
  details.kernelRelease = found[5]!
  const letters = /^Tainted: (.*)/.exec(found[4]!)?.[1] ?? ''
  // `G` says "no proprietary module", which is no taint.
  details.taint = [...letters.replaceAll(' ', '')].filter((letter) => letter !== 'G')
}

function takePlace(details: SplatDetails, message: string): void {
  const where = place.exec(message)
  if (where) details.place ??= where[1]!
  // The first RIP is the kernel's own; a later one may be the user space that called it.
  const at = rip.exec(message)
  if (at && details.function === undefined) takeFunction(details, at[1]!)
}

function takeFunction(details: SplatDetails, text: string): void {
  const found = symbol.exec(text)
  if (!found) return
  details.function = found[1]!
  if (found[3] !== undefined) details.module = found[3]
}
