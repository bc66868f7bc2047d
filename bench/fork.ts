/**
 * Boot, fork and reset of bare guests on this machine's own /dev/kvm, beside a C loop of the same raw ioctls
 * (floor.c). A life is: create, start, print 24 bytes, exit, release. Then the same of Linux guests.
 * `npm run bench -- fork`.
 */
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { addonPath, loadAddon } from '../src/native/addon.ts'
import type { MachineEvent, MachineSpec, NativeCheckpoint, NativeMachine } from '../src/native/contract.ts'
import { benchLinux } from './fork-linux.ts'
import { printTable, type Row, timed } from './table.ts'

const RUNS = 200
const execute = promisify(execFile)

function spec(guest: string, irqchip: boolean): MachineSpec {
  const elf = join(dirname(addonPath()), 'guests', `${guest}.elf`)
  return {
    name: guest,
    cpus: 1,
    memory: 2 << 20,
    payload: { kind: 'bare', elf, ring: 0 },
    devices: [],
    irqchip,
  }
}

type Create = (onEvent: (event: MachineEvent) => void) => Promise<NativeMachine>

async function life(create: Create): Promise<void> {
  const ended = Promise.withResolvers<number | undefined>()
  const machine = await create((event) => {
    if (event.type === 'end') ended.resolve(event.end.code)
  })
  await machine.start()
  const code = await ended.promise
  await machine.stop()
  if (code !== 0) throw new Error(`the guest ended with ${code}`)
}

async function times(count: number, work: () => Promise<void>): Promise<number[]> {
  await work()
  const values: number[] = []
  for (let i = 0; i < count; i++) values.push((await timed(work)).ms)
  return values
}

/** Of a guest that writes 64 pages before each reset. */
async function resets(irqchip: boolean): Promise<number[]> {
  let written = () => {}
  const machine = await loadAddon().createMachine(spec('steps', irqchip), () => {})
  await machine.start()
  const checkpoint = await machine.checkpoint()
  await machine.stop()
  const fork = await checkpoint.fork({}, (event) => {
    if (event.type === 'data') written()
  })
  await fork.start()
  const values: number[] = []
  for (let i = 0; i < RUNS; i++) {
    const done = new Promise<void>((resolve) => {
      written = resolve
    })
    await fork.write('serial', new TextEncoder().encode('w'))
    await done
    fork.consumed('debug', 1)
    values.push((await timed(() => fork.reset())).ms)
  }
  await fork.stop()
  checkpoint.release()
  return values
}

async function residentKiB(): Promise<number> {
  return Number(/^Private_Dirty:\s*(\d+)/m.exec(await readFile('/proc/self/smaps_rollup', 'utf8'))![1])
}

/** Private memory of the process for each fork that has been created and does nothing, kernel's not counted. */
async function idleForks(checkpoint: NativeCheckpoint, label: string): Promise<Row> {
  const before = await residentKiB()
  const forks = await Promise.all(Array.from({ length: 200 }, () => checkpoint.fork({}, () => {})))
  const each = ((await residentKiB()) - before) / forks.length
  await Promise.all(forks.map((fork) => fork.stop()))
  return { what: `private memory of an idle fork, ${label}, 200 at once`, unit: 'KiB', values: [each] }
}

async function withFloor(floor: string, irqchip: boolean): Promise<Row[]> {
  const label = irqchip ? 'with irqchip' : 'without irqchip'
  const addon = loadAddon()
  const raw = async (what: string): Promise<Row> => {
    const { stdout } = await execute(floor, [what, irqchip ? '1' : '0', String(RUNS)])
    const values = stdout
      .trim()
      .split('\n')
      .map((line) => Number(line) / 1000)
    return { what: `floor: ${what}, ${label}`, unit: 'ms', values }
  }
  const unstarted = await addon.createMachine(spec('hello', irqchip), () => {})
  const checkpoint = await unstarted.checkpoint()
  await unstarted.stop()
  const fork: Create = (onEvent) => checkpoint.fork({}, onEvent)
  const boot: Create = (onEvent) => addon.createMachine(spec('hello', irqchip), onEvent)
  const rows: Row[] = [
    await raw('boot'),
    { what: `life by boot, ${label}`, unit: 'ms', values: await times(RUNS, () => life(boot)) },
    await raw('fork'),
    { what: `life by fork, ${label}`, unit: 'ms', values: await times(RUNS, () => life(fork)) },
    await raw('reset'),
    { what: `reset of 64 pages, ${label}`, unit: 'ms', values: await resets(irqchip) },
  ]
  for (const atOnce of [1, 2, 4]) {
    const values = await times(20, async () => {
      await Promise.all(Array.from({ length: atOnce }, () => life(fork)))
    })
    rows.push({
      what: `lives by fork a second, ${atOnce} at once, ${label}`,
      unit: '1/s',
      values: values.map((ms) => (1000 * atOnce) / ms),
    })
  }
  rows.push(await idleForks(checkpoint, label))
  checkpoint.release()
  return rows
}

export async function bench(): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'kvitest-bench-'))
  try {
    const floor = join(directory, 'floor')
    await execute('cc', ['-O2', '-o', floor, join(import.meta.dirname, 'floor.c')])
    const rows = [...(await withFloor(floor, false)), ...(await withFloor(floor, true))]
    printTable('boot, fork and reset of bare guests on local', rows)
    await benchLinux()
  } finally {
    await rm(directory, { recursive: true })
  }
}
