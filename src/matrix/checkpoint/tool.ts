/** A guest that was saved on one host and goes on on another: what its registers held there, they hold here. */
import { mkdir } from 'node:fs/promises'
import { release } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { openHost } from '../../guest/host.ts'
import { fileHash } from '../../image/hash.ts'
import { builtFile, entriesHash } from '../../image/initramfs.ts'
import { makePack } from '../../image/pack.ts'
import { resolveKernel } from '../../image/resolve.ts'
import { KvitestError } from '../../native/error.ts'
import { guestResults } from '../outcome.ts'
import type { PointResult, PreparedTool, Tool } from '../tool.ts'
import { putEntries, vmmEntries } from '../vmm-files.ts'
import { packed, program, RESTORED, registersFile } from './place.ts'

export interface CheckpointOptions {
  /** The host that it is saved on: `lab:debian:6.1-cloud`. */
  of: string
  /** Default `checkpoint-of-HOST`. */
  name?: string
  /** Milliseconds of the boot there, and of what is done here; default 120 s. */
  deadline?: number
}

const mebibytes = 128

/** Saved by our own VMM as it is built here, on the host `of`; restored by it on the host of the cell. */
export function checkpoint({ of, name: given, deadline = 120_000 }: CheckpointOptions): Tool {
  const name = given ?? `checkpoint-of-${of}`
  const prepare = async (guest: string | undefined): Promise<PreparedTool> => {
    const entries = await vmmEntries('src/matrix/checkpoint/main.ts')
    const kernel = await resolveKernel(guest)
    const registers = await builtFile('programs/registers')
    // What is another checkpoint when it changes: both kernels, the VMM (with the program), what runs in the guest.
    const inside = await Promise.all([registers, await builtFile('agent')].map(fileHash))
    const key = ['1', await entriesHash(entries), await hostHash(of), kernel.hash, ...inside].join(' ')
    const pack = await makePack(name.replaceAll(/[^\w.-]+/g, '-'), key, async (root) => {
      await putEntries(root, entries)
      const path = join(root, packed)
      await mkdir(dirname(path), { recursive: true })
      const saved = await save(of, kernel.name, registers, path, deadline)
      return [`checkpoint of ${kernel.name} ${kernel.release} on ${of} ${saved}`]
    })
    const request = {
      argv: [...program, String(deadline)],
      environment: { XDG_CACHE_HOME: '/tmp', UV_THREADPOOL_SIZE: '16' },
      deadline: 2 * deadline,
    }
    return {
      pack,
      hash: pack.hash,
      version: /\S+$/.exec(pack.origin[0]!)![0],
      all: async ({ programs }) => withReason(guestResults(await programs.run(request), request.deadline)),
    }
  }
  // Node, the guest, and its file once more.
  return { name, takesGuest: true, need: { cpus: 1, memory: (2 * mebibytes + 256) << 20 }, prepare }
}

/** Two of the same make the same checkpoint. */
async function hostHash(host: string): Promise<string> {
  return host.startsWith('lab:') ? (await resolveKernel(host.slice(4))).hash : `${host} ${release()}`
}

/** Boots a guest, has its registers hold what they are to hold, and saves it. Returns the host's kernel. */
async function save(
  of: string,
  kernel: string,
  registers: string,
  path: string,
  deadline: number,
): Promise<string> {
  await using host = await openHost(of)
  await using guest = await host.boot({
    kernel,
    name: 'saved',
    memory: `${mebibytes}M`,
    devices: [{ type: 'virtio-rng' }],
    files: { '/bin/registers': registers },
    bootTimeout: deadline,
  })
  await guest.spawn(['/bin/registers', registersFile])
  const wait = `until grep -q holding ${registersFile}; do sleep 0.1; done`
  const { status, stderr } = await guest.exec(['/bin/sh', '-c', wait], { timeout: deadline })
  if (status !== 0) throw new KvitestError('save a checkpoint', `registers hold nothing: ${stderr}`)
  // Then nobody else wants the CPU, and the values are in its registers, not in memory.
  await sleep(1000)
  await using saved = await guest.checkpoint()
  await saved.save(path)
  return host.info.kernelRelease
}

/** What kept it from being restored is what the cell differs by. */
function withReason(results: Map<string, PointResult>): Map<string, PointResult> {
  const restored = results.get(RESTORED)
  const said = /^# (.*)$/m.exec(restored?.output ?? '')?.[1]
  if (restored?.verdict === 'fail' && said !== undefined) results.set(RESTORED, { ...restored, reason: said })
  return results
}
