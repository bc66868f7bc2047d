/** Two cells of a matrix in a lab: a program against the UAPI headers of another kernel, and our own VMM. */
import { expect, onTestFinished, test } from 'vitest'
import { openMachineHost } from '../host/index.ts'
import { cellVerdict } from './account.ts'
import { CellRun } from './cell-run.ts'
import { expandMatrix } from './declare.ts'
import { abiProbe } from './tools/probe.ts'
import { ownVmm } from './tools/vmm.ts'

const host = 'lab:debian:6.12-cloud'
const guest = 'debian:6.12-cloud'

test('tools run on the kernel of a lab, and each of their points passes', async () => {
  const machines = await openMachineHost(host)
  const cells = expandMatrix({
    name: 'two',
    tools: [abiProbe({ version: '6.1' }), ownVmm()],
    hosts: [host],
    guests: [guest],
    machines: { other: { cpus: 2, memory: '320M', transport: 'mmio' } },
    only: [{ tool: 'probe-*' }, { tool: 'vmm', machine: 'other' }],
  })
  expect(cells.map(({ id }) => id)).toEqual([`${host} > probe-6.1`, `${host} > vmm machine:other > ${guest}`])
  const points = new Map<string, string[]>()
  for (const cell of cells) {
    const run = new CellRun(cell, async () => machines)
    onTestFinished(() => run.close())
    points.set(cell.tool.name, await run.points())
    const failed = [...run.results].filter(([, { verdict }]) => verdict !== 'pass')
    expect(failed).toEqual([])
    expect(cellVerdict(run.results.values())).toEqual({
      verdict: 'pass',
      reason: '',
      points: { pass: run.results.size },
    })
    expect(points.get(cell.tool.name)).toContain('the run')
    expect(run.results.size).toBeGreaterThan(7)
  }
  expect(points.get('vmm')).toEqual(
    expect.arrayContaining([
      'the guest has 2 CPUs',
      'the guest has 320 MiB',
      'there is a virtio device on MMIO',
    ]),
  )
  await machines.close()
})
