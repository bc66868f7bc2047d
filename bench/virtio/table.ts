import type { LoadResult, VsockBackend } from './request.ts'

export type Measured = LoadResult & {
  /** CPU time of the lab. */
  labSeconds: number
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

const figure = (value: number) =>
  value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)

/** What is small is counted in requests, the rest in bytes. */
const inRequests = ({ requests, bytes }: LoadResult) => bytes / requests <= 4096

/** What an idle machine does anyway, a second. */
interface Idle {
  exits: number
  interrupts: number
}

function idleOf(all: Measured[]): Idle {
  const nothing = all.filter(({ load }) => load === 'nothing')
  const each = (name: string) =>
    nothing.length === 0 ? 0 : median(nothing.map(({ counts, seconds }) => counts[name]! / seconds))
  return { exits: each('exits'), interrupts: each('irq_injections') }
}

function figures(all: Measured[], idle: Idle) {
  const each = (count: (one: Measured) => number) =>
    median(all.map((one) => Math.max(0, count(one)) / one.requests))
  return {
    /** Requests a second, or MB/s. */
    rate: median(
      all.map((one) => (inRequests(one) ? one.requests : one.bytes / 1e6)).map((n, i) => n / all[i]!.seconds),
    ),
    /** Requests for a second of CPU time. */
    work: median(all.map((one) => one.requests / one.labSeconds)),
    exits: each(({ counts, seconds }) => counts.exits! - idle.exits * seconds),
    toVmm: each(({ counts }) => counts.io_exits! + counts.mmio_exits!),
    interrupts: each(({ counts, seconds }) => counts.irq_injections! - idle.interrupts * seconds),
  }
}

const names: Record<VsockBackend, string> = { streams: '', unix: ', Unix socket', vhost: ', vhost' }

/** What is added to a load's name for what is behind our device: it stands beside the same load of QEMU. */
export const behind = (backend: VsockBackend) => names[backend]

const ofQemu = (load: string) => load.replace(/, (Unix socket|vhost)$/, '')

/** Medians; exits and interrupts of one request, without those of an idle machine. */
export function printComparison(title: string, results: { kvitest: Measured[]; qemu: Measured[] }): void {
  const heads = ['load', 'unit', 'kvitest', 'QEMU', 'ratio', 'ratio by CPU time']
  const counted = ['exits', 'QEMU', 'of them to the VMM', 'QEMU', 'interrupts', 'QEMU']
  console.log(`\n${title}`)
  console.log(`| ${[...heads, ...counted].join(' | ')} |\n|${'---|'.repeat(heads.length + counted.length)}`)
  const idle = { kvitest: idleOf(results.kvitest), qemu: idleOf(results.qemu) }
  for (const load of new Set(results.kvitest.map((one) => one.load))) {
    const own = results.kvitest.filter((one) => one.load === load)
    const other = results.qemu.filter((one) => one.load === ofQemu(load))
    if (load === 'nothing' || other.length === 0) continue
    const a = figures(own, idle.kvitest)
    const b = figures(other, idle.qemu)
    const cells = [a.rate, b.rate, a.rate / b.rate, a.work / b.work]
    const counts = [a.exits, b.exits, a.toVmm, b.toVmm, a.interrupts, b.interrupts]
    const unit = inRequests(own[0]!) ? '1/s' : 'MB/s'
    console.log(`| ${load} | ${unit} | ${[...cells, ...counts].map(figure).join(' | ')} |`)
  }
}
