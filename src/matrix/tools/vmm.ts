/** The VMM of this very build as a tool: boots a guest kernel, in which the smoke script prints TAP. */
import { readFileSync } from 'node:fs'
import { GuestError } from '../../guest/error.ts'
import { openHost } from '../../guest/host.ts'
import { fileHash } from '../../image/hash.ts'
import { builtFile } from '../../image/initramfs.ts'
import { defaultSetup, type ToolSetup, takesOnly } from '../machine.ts'
import { pointResults } from '../outcome.ts'
import { packedVmm } from '../release/tool.ts'
import type { PointResult, PreparedTool, Tool } from '../tool.ts'
import { smokeFiles, smokeModules, smokeScript } from './smoke.ts'

export interface VmmOptions {
  /** Default `vmm`, of an older release `vmm-0.1.0`. */
  name?: string
  /** Path of the tarball (`npm pack`) of a release; default: what is built here. */
  release?: string
  /** Milliseconds of the boot, and of the script; default 60 s. */
  deadline?: number
}

const packageVersion: string = JSON.parse(
  readFileSync(new URL('../../../package.json', import.meta.url), 'utf8'),
).version

/** kvitest's own VMM as it is built here, which a lab has inside, or that of a release. */
export function ownVmm({ name, release, deadline = 60_000 }: VmmOptions = {}): Tool {
  if (release !== undefined) return packedVmm({ name, release, deadline })
  const prepare = async (guest: string | undefined, setup = defaultSetup): Promise<PreparedTool> => ({
    hash: await fileHash(await builtFile('kvitest.node')),
    version: packageVersion,
    all: ({ host }) => bootAndRun(host, guest, setup, deadline),
  })
  // Its guests take their own lease of the budget.
  const need = { cpus: 0, memory: 0 }
  const refusesMachine = takesOnly('cpus', 'memory', 'transport')
  return { name: name ?? 'vmm', takesGuest: true, need, refusesMachine, prepare }
}

async function bootAndRun(
  hostName: string,
  kernel: string | undefined,
  setup: ToolSetup,
  deadline: number,
): Promise<Map<string, PointResult>> {
  await using host = await openHost(hostName)
  const { cpus, memory, transport } = setup.machine
  const devices = [{ type: 'virtio-rng' as const, ...(transport ? { transport } : {}) }]
  try {
    // A boot, not a fork: how a kernel comes up is what is asked.
    await using guest = await host.boot({
      ...(kernel === undefined ? {} : { kernel }),
      ...(cpus === undefined ? {} : { cpus }),
      ...(memory === undefined ? {} : { memory }),
      devices,
      files: await smokeFiles(),
      modules: smokeModules,
      bootTimeout: deadline,
    })
    const { tap, status, timedOut, stderr } = await guest.run(
      `#!/bin/sh\n${smokeScript(guest.kernel.release, setup)}`,
      {
        timeout: deadline,
      },
    )
    const end = await guest.stop()
    const results = pointResults(tap.points)
    const said = [...tap.problems, ...(status === 0 || status === 1 ? [] : [`exit status ${status}`])]
    const output = [stderr, guest.console.text().slice(-16_384)].join('\n')
    const isWell = ['pass', 'fail'].includes(end.verdict) && said.length === 0 && !timedOut
    const verdict = end.verdict === 'oops' ? 'oops' : timedOut ? 'timeout' : 'fail'
    const reason = [`${end.verdict}: ${end.reason}`, ...said].join('; ')
    results.set('the run', isWell ? { verdict: 'pass', output } : { verdict, reason, output })
    return results
  } catch (error) {
    if (!(error instanceof GuestError)) throw error
    const { verdict, reason } = error.end
    const output = error.console.slice(-16_384)
    return new Map([
      [
        'the run',
        { verdict: verdict === 'infra' ? 'infra' : 'fail', reason: `${verdict}: ${reason}`, output },
      ],
    ])
  }
}
