/** A release of this very tree, packed as npm packs it, runs in a lab as an older one would. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { openMachineHost } from '../../host/index.ts'
import { runCommand } from '../../image/command.ts'
import { CellRun } from '../cell-run.ts'
import { expandMatrix } from '../declare.ts'
import { ownVmm } from '../tools/vmm.ts'

const root = resolve(import.meta.dirname, '../../..')
const host = 'lab:debian:6.1-cloud'

test('the tarball of this tree boots a guest in a lab with its own addon, agent and code', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'kvitest-release-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  const packed = await runCommand(['npm', 'pack', '--pack-destination', folder], { cwd: root })
  expect(packed.status, packed.stderr).toBe(0)
  const release = join(folder, packed.stdout.toString().trim().split('\n').at(-1)!)
  const machines = await openMachineHost(host)
  onTestFinished(() => machines.close())
  const [cell] = expandMatrix({
    name: 'one',
    tools: [ownVmm({ release })],
    hosts: [host],
    guests: ['debian:6.12-cloud'],
  })
  const run = new CellRun(cell!, async () => machines)
  onTestFinished(() => run.close())

  const points = await run.points()

  expect(cell!.tool.name).toMatch(/^vmm-\d/)
  expect([...run.results].filter(([, { verdict }]) => verdict !== 'pass')).toEqual([])
  expect(points).toContain('the kernel is the one that was asked for')
  expect(points).toContain('fingerprint virtio')
  const { tool } = await run.opened()
  // Nothing of it is this tree's: the addon that ran came out of the tarball.
  expect(tool.pack!.entries.map(({ path }) => path)).toContain('kvitest/build/Release/kvitest.node')
})

test('a tarball that is none, or that lacks what was built, is named', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'kvitest-release-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  await expect(
    ownVmm({ release: join(folder, 'kvitest-0.0.9.tgz') }).prepare('debian:6.1-cloud'),
  ).rejects.toThrow(/^find vmm-0\.0\.9: .*no such file; give the path of the tarball/)
  const tarball = join(folder, 'kvitest-0.0.8.tgz')
  await runCommand(['tar', '-czf', tarball, '-C', root, 'package.json', 'README.md'])
  await expect(ownVmm({ release: tarball }).prepare('debian:6.1-cloud')).rejects.toThrow(
    /^unpack vmm-0\.0\.8: .*: no src\/matrix\/release\/pack\.ts in it; pack a release after npm run setup/,
  )
})
