/**
 * Our devices beside QEMU's: one lab, one guest kernel, initramfs and program, one VMM after the other, A-B-A-B.
 * `npm run bench -- virtio [--kernel debian:6.12-cloud] [--rounds 2] [--ms 1500] [--only 'blk 4k'] [--disk memory] [--packed]`
 */
import { readdirSync, readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { leaseGuest } from '../../src/budget/process-budget.ts'
import { openMachineHost } from '../../src/host/index.ts'
import type { ProgramPlace } from '../../src/host/program/contract.ts'
import { KvitestError } from '../../src/native/error.ts'
import { virtioBenchPack } from './pack.ts'
import type { LoadResult, SideRequest, VsockBackend } from './request.ts'
import { behind, type Measured, printComparison } from './table.ts'

const need = { cpus: 1, memory: 900 * 2 ** 20 }
const deadline = 600_000

/** CPU time of this process's labs so far, seconds: what others take of a busy machine is not in it. */
function labTime(): number {
  const ticks = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        const [, comm, rest] = /\((.*)\) (.*)/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))!
        const fields = rest!.split(' ')
        const isOurs = comm!.startsWith('qemu-system') && Number(fields[1]) === process.pid
        return isOurs ? Number(fields[11]) + Number(fields[12]) : 0
      } catch {
        return 0 // It has just ended.
      }
    })
  return ticks.reduce((sum, one) => sum + one, 0) / 100
}

async function runSide(programs: ProgramPlace, request: SideRequest): Promise<Measured[]> {
  const results: Measured[] = []
  let text = ''
  let before = 0
  const take = (line: string) => {
    const said = JSON.parse(line) as LoadResult | { begin: string }
    if ('begin' in said) before = labTime()
    else results.push({ ...said, labSeconds: labTime() - before })
  }
  const { stderr, status, expired } = await programs.run(
    {
      argv: ['/usr/bin/node', '/side.mjs', JSON.stringify(request)],
      environment: { NODE_NO_WARNINGS: '1' },
      deadline,
    },
    (stream, data) => {
      if (stream !== 'stdout') return
      text += Buffer.from(data).toString()
      const lines = text.split('\n')
      text = lines.pop()!
      for (const line of lines) take(line)
    },
  )
  if (status !== 0 || stderr.includes('FAILED')) {
    const detail = expired ? `not done after ${deadline / 1000} s` : `status ${status}`
    throw new KvitestError('bench of virtio', `${request.vmm}: ${detail}: ${stderr.trim().slice(-1500)}`)
  }
  return results
}

/** What else can be behind our vsock; vhost has no packed rings. */
const otherVsocks: readonly VsockBackend[] = ['unix', 'vhost']
const isVsockAsked = (only = '') => 'vsock'.startsWith(only) || only.startsWith('vsock')

export async function bench(argv: string[]): Promise<void> {
  const { values } = parseArgs({
    args: argv,
    options: {
      kernel: { type: 'string', default: 'debian:6.12-cloud' },
      rounds: { type: 'string', default: '2' },
      ms: { type: 'string', default: '1500' },
      only: { type: 'string' },
      disk: { type: 'string', default: 'file' },
      packed: { type: 'boolean', default: false },
      raw: { type: 'boolean', default: false },
    },
  })
  process.env.KVITEST_LABS ??= '1'
  await using host = await openMachineHost(`lab:${values.kernel}`)
  const programs = await host.openPrograms(await virtioBenchPack(values.kernel, values.kernel), need)
  const results = { kvitest: [] as Measured[], qemu: [] as Measured[] }
  const sides: Pick<SideRequest, 'vmm' | 'vsock' | 'only'>[] = [
    { vmm: 'kvitest', vsock: 'streams' },
    { vmm: 'qemu', vsock: 'vhost' },
  ]
  for (const vsock of isVsockAsked(values.only) ? otherVsocks : [])
    if (!values.packed || vsock !== 'vhost') sides.push({ vmm: 'kvitest', vsock, only: 'vsock' })
  for (let round = 0; round < Number(values.rounds); round++) {
    for (const side of sides) {
      const lease = await leaseGuest({ guest: `bench of ${side.vmm}`, ...need })
      try {
        lease.started()
        const measured = await runSide(programs, {
          ms: Number(values.ms),
          ...(values.only === undefined ? {} : { only: values.only }),
          disk: values.disk === 'memory' ? 'memory' : 'file',
          packed: values.packed,
          ...side,
        })
        if (side.vmm === 'kvitest') for (const one of measured) one.load += behind(side.vsock)
        if (values.raw) for (const one of measured) console.log(side.vmm, JSON.stringify(one))
        results[side.vmm].push(...measured)
      } finally {
        lease.end('pass')
      }
    }
  }
  const { name, kernelRelease } = host.info
  printComparison(`virtio on ${name} (${kernelRelease}), ${values.rounds} rounds of ${values.ms} ms`, results)
  await programs.close()
}
