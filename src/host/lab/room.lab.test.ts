/** The guests of a lab fit into its memory: who finds no room waits, in order. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { asHolder } from '../../budget/holder.ts'
import { builtFile } from '../../image/initramfs.ts'
import type { MachineSpec } from '../../native/contract.ts'
import { startLabs } from '../index.ts'
import type { HostMachine } from '../machine-host.ts'
import { LabHost } from './client.ts'

const kvitest = join(import.meta.dirname, '../../../scripts/kvitest')

let labs: Awaited<ReturnType<typeof startLabs>>
let host: LabHost
let spec: MachineSpec

beforeAll(async () => {
  labs = await startLabs({ labs: 1, memory: 2 ** 30 })
  host = await LabHost.connect(labs.socket, 'debian:6.12-cloud')
  const elf = await builtFile('guests/spin.elf')
  spec = { name: 'spin', cpus: 1, memory: 512 << 20, payload: { kind: 'bare', elf, ring: 0 }, devices: [] }
}, 180_000)

afterAll(async () => {
  await host?.close()
  await labs?.close({ save: false })
})

/** A guest that `id` asks for; `waits` resolves when it is told to wait. */
function ask(id: string, signal?: AbortSignal): { waits: Promise<void>; machine: Promise<HostMachine> } {
  const waits = Promise.withResolvers<void>()
  const pause = () => {
    waits.resolve()
    return () => {}
  }
  const machine = asHolder({ id, pause, signal }, () => host.createMachine(spec, () => {}))
  machine.catch(() => {})
  return { waits: waits.promise, machine }
}

test('one after the other, in the order in which they asked; who gives up is left out', async () => {
  const order: string[] = []
  const first = await ask('a').machine
  const given = new AbortController()
  const [b, c, d] = [ask('b'), ask('c', given.signal), ask('d')]
  await Promise.all([b.waits, c.waits, d.waits])
  void b.machine.then(() => order.push('b'))
  void d.machine.then(() => order.push('d'))
  given.abort()
  await expect(c.machine).rejects.toThrow('the session was closed')

  await first.stop()
  const second = await b.machine
  expect(order).toEqual(['b'])
  await second.stop()
  await (await d.machine).stop()
  expect(order).toEqual(['b', 'd'])
})

test('a second guest of one holder does not wait for the first one', async () => {
  const first = await ask('a').machine
  const second = await ask('a').machine
  await Promise.all([first.stop(), second.stop()])
})

test('what goes on from something that a lab holds waits for nobody who waits for room', async () => {
  const first = await ask('a').machine
  await first.start()
  const checkpoint = await first.checkpoint()
  const b = ask('b')
  await b.waits
  const fork = await asHolder({ id: 'c' }, () => checkpoint.fork({}, () => {}))
  await fork.stop()
  await checkpoint.release()
  await first.stop()
  await (await b.machine).stop()
})

test('a lab of 1 GiB says what room it has', () => {
  expect(host.info.memory).toBeGreaterThan(128 << 20)
  expect(host.info.memory).toBeLessThan(512 << 20)
})

test('a guest too large for the labs of KVITEST_LAB_MEMORY is told so in one line, and so is a lab too small', async () => {
  const refusal = async (labMemory: string, memory: string) => {
    const env = { ...process.env, KVITEST_LAB_MEMORY: labMemory, KVITEST_LAB_SOCKET: '' }
    const run = promisify(execFile)(kvitest, ['run', '--host', 'lab', '--memory', memory, '--', 'true'], {
      env,
    })
    return (await run.catch((error) => error)).stderr
  }
  expect(await refusal('1G', '4G')).toBe(
    'kvitest: use a lab: a guest of 4 GiB in a lab of 1 GiB, which has at most 2.5 GiB for one; ' +
      'give the guest less memory, or the labs more with KVITEST_LAB_MEMORY\n',
  )
  expect(await refusal('512M', '256M')).toBe(
    'kvitest: start a lab: 512 MiB of memory, and it needs 768 MiB at least; set KVITEST_LAB_MEMORY to more\n',
  )
})

test('a guest that fits into no lab is refused', async () => {
  await expect(host.createMachine({ ...spec, memory: 2 ** 32 }, () => {})).rejects.toThrow(
    'use a lab: a guest of 4 GiB in a lab of 1 GiB, which has at most 2.5 GiB for one; ' +
      'give the guest less memory, or the labs more with KVITEST_LAB_MEMORY',
  )
})
