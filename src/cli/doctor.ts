import { parseArgs } from 'node:util'
import { describeHosts, type HostsReport } from '../host/index.ts'
import { builtFile, staticBusybox } from '../image/initramfs.ts'
import { resolveKernel } from '../image/resolve.ts'
import { KvitestError } from '../native/error.ts'

const usage = `usage: kvitest doctor [--json]

Prints what this machine can do, which host each kind of guest will use, and why.
Exit status 0 when the main job (Linux guests, vitest run suites/virtio) can run here, 1 when not.`

function gibibytes(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`
}

function millions(value: number): string {
  return `${(value / 1e6).toPrecision(3)} million/s`
}

function savedLabs({ savedLabs: saved }: HostsReport): string {
  if (process.env.KVITEST_SAVED_LABS === '0') return 'off (KVITEST_SAVED_LABS=0): every lab boots'
  if (saved.length === 0) return 'none: the first lab boots, and is saved at the end of its run'
  return saved.map(({ kernel, bytes }) => `${kernel} (${gibibytes(bytes)})`).join(', ')
}

function leaseRows({ leases }: HostsReport): [string, string][] {
  if (!leases || leases.length === 0) return [['leases', 'none: no guest runs']]
  const lines = leases.map(
    ({ guest, pid, cpus, memory, state }) =>
      `${guest} of process ${pid}: ${cpus} vCPU${cpus === 1 ? '' : 's'}, ${gibibytes(memory)}, ${state}`,
  )
  return lines.map((line, index) => [index === 0 ? 'leases' : '', line])
}

function rows(report: HostsReport): [string, string][] {
  const { calibration, kvm, budget } = report
  const device = { usable: '/dev/kvm', absent: 'no /dev/kvm', 'not permitted': '/dev/kvm: permission denied' }
  return [
    ['kernel', report.kernelRelease],
    ['cpus', String(report.cpus)],
    ['memory', `${gibibytes(report.memoryAvailable)} available`],
    ['budget', `${budget.cpus} vCPUs of guests: ${budget.from.cpus}`],
    ['', `${gibibytes(budget.memory)} of guests: ${budget.from.memory}`],
    ['', `${budget.starts} guests that start at a time: ${budget.from.starts}`],
    ...leaseRows(report),
    [
      'kvm',
      kvm
        ? `/dev/kvm, API version ${kvm.apiVersion}, at most ${kvm.maxVcpus} vCPUs`
        : device[report.kvmDevice],
    ],
    ...(calibration
      ? ([
          ['ring 0', `${millions(calibration.ring0)} instructions`],
          ['ring 3', `${millions(calibration.ring3)} instructions`],
          ['exit', `${calibration.exit.toFixed(1)} us`],
        ] as [string, string][])
      : []),
    ['nesting', report.nesting ? 'on' : 'off'],
    ['vhost', report.vhost.join(', ') || 'none that this user may open; labs have their own'],
    ['qemu', report.qemu ?? 'missing'],
    ['labs', report.labAccelerator === 'tcg' ? 'TCG, one vCPU each' : 'KVM, nested'],
    ['saved labs', savedLabs(report)],
    ['kernels', report.cachedKernels.map((one) => one.version).join(', ') || 'none in the cache'],
    ['Linux guests', `${report.linuxGuests.host}: ${report.linuxGuests.reason}`],
    ['bare guests', `${report.bareGuests.host}: ${report.bareGuests.reason}`],
  ]
}

/** What guests are made of, besides a host to run on. */
async function missingParts(): Promise<string[]> {
  const parts = [() => builtFile('agent'), () => staticBusybox(), () => resolveKernel()]
  const results = await Promise.allSettled(parts.map((part) => part()))
  return results.flatMap((result) => {
    if (result.status === 'fulfilled') return []
    if (result.reason instanceof KvitestError) return [result.reason.message]
    throw result.reason
  })
}

/** `kvitest doctor`: returns the exit status. */
export async function doctor(argv: string[]): Promise<number> {
  const { values } = parseArgs({
    args: argv,
    options: { json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } },
  })
  if (values.help) {
    console.log(usage)
    return 0
  }
  const report = await describeHosts()
  const problems = [...report.problems, ...(await missingParts())]
  if (values.json) {
    console.log(JSON.stringify({ ...report, problems }, null, 2))
  } else {
    for (const [name, value] of rows(report)) console.log(`${name.padEnd(14)}${value}`)
    if (report.localError) console.log(`${'local'.padEnd(14)}${report.localError}`)
    for (const problem of problems) console.log(`${'problem'.padEnd(14)}${problem}`)
    console.log(problems.length === 0 ? 'The main job can run here.' : 'The main job cannot run here.')
  }
  return problems.length === 0 ? 0 : 1
}
