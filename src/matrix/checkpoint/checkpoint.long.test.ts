/** Breakage B (ad856280ddea): a guest that one host saved goes on on another, unless its KVM refuses what the first one gave. */
import { expect, onTestFinished, test } from 'vitest'
import { type HostChoice, openMachineHost } from '../../host/index.ts'
import { compareCells } from '../account.ts'
import { CellRun } from '../cell-run.ts'
import { expandMatrix } from '../declare.ts'
import { planted } from '../plant.ts'
import type { PointResult, Tool } from '../tool.ts'
import { abiProbe } from '../tools/probe.ts'
import { checkpoint } from './tool.ts'

const old = 'lab:debian:6.1-cloud'
const late = 'lab:debian:6.12-cloud'
const [ofOld, ofLate] = [old, late].map((of) => checkpoint({ of })) as [Tool, Tool]

/** The points of these tools on one host, by the tool's name. */
async function cellsOn(host: HostChoice, tools: Tool[]): Promise<Map<string, Map<string, PointResult>>> {
  await using machines = await openMachineHost(host)
  const found = new Map<string, Map<string, PointResult>>()
  for (const cell of expandMatrix({ name: 'b', tools, hosts: [host], guests: ['debian:6.12-cloud'] })) {
    const run = new CellRun(cell, async () => machines)
    onTestFinished(() => run.close())
    await run.points()
    await run.close()
    found.set(cell.tool.name, run.results)
  }
  return found
}

const points = [
  'the checkpoint is restored',
  'the control words of x87 and SSE are what they were',
  'st0 to st7 are what they were',
  'xmm0 to xmm15 are what they were',
  'the upper halves of ymm0 to ymm15 are what they were',
  'its clock goes on',
  'the run',
]
const passed = points.map((name) => [name, 'pass'])
const verdicts = (results: Map<string, PointResult> | undefined) =>
  [...(results ?? [])].map(([name, { verdict }]) => [name, verdict])

test('a guest that 6.1 saved goes on on 6.12; what is planted there turns its cell red, and no other', async () => {
  // x87 and SSE are all that this KVM knows: the checkpoint has AVX besides, and PKRU (0x200).
  const refusing = ['xsave-known=0x3']
  const probe = abiProbe({ version: '6.1' })
  const tools = [ofOld, ofLate, probe, planted(ofOld, refusing), planted(probe, refusing)]
  const more = [planted(ofOld, ['xsave-known=0x207']), planted(ofOld, ['xsave-lost=0x4'])]
  const cells = await cellsOn(late, [...tools, ...more])

  expect(verdicts(cells.get(ofOld.name))).toEqual(passed)
  expect(verdicts(cells.get(ofLate.name))).toEqual(passed)
  const differs = (tool: Tool) =>
    compareCells(cells.get(tool.name.split(' with ')[0]!)!, cells.get(tool.name)!)
  expect(differs(tools[3]!)).toEqual([
    '-the checkpoint is restored: pass',
    expect.stringMatching(/^\+the checkpoint is restored: fail \(.*KVM_SET_XSAVE.*Invalid argument/),
    '-the run: pass',
    '+the run: fail (exit status 1)',
  ])
  // Nothing that is not known is in it, and nothing in what the probe sets.
  expect(differs(tools[4]!)).toEqual([])
  expect(differs(more[0]!)).toEqual([])
  // What the commit's message tells of: a guest that goes on with registers that are not its own.
  expect(differs(more[1]!)).toEqual([
    '-the upper halves of ymm0 to ymm15 are what they were: pass',
    expect.stringMatching(/^\+the upper halves of ymm0 to ymm15 are what they were: fail/),
  ])
})

test('and one that 6.12 saved on 6.1', async () => {
  const cells = await cellsOn(old, [ofLate, ofOld])

  expect(verdicts(cells.get(ofLate.name))).toEqual(passed)
  expect(verdicts(cells.get(ofOld.name))).toEqual(passed)
})
