/** Bare guests in a lab, for tests. */
import { onTestFinished } from 'vitest'
import { builtFile } from '../../../image/initramfs.ts'
import type { MachineEnd, MachineEvent, MachineSpec } from '../../../native/contract.ts'
import type { HostMachine, MachineHost } from '../../machine-host.ts'

/** A bare guest of fixtures/guests. */
export async function bare(guest: string, ring: 0 | 3 = 0): Promise<MachineSpec> {
  const elf = await builtFile(`guests/${guest}.elf`)
  return { name: guest, cpus: 1, memory: 4 << 20, payload: { kind: 'bare', elf, ring }, devices: [] }
}

/** A machine that was started, with everything it said. */
export interface Run {
  machine: HostMachine
  events: MachineEvent[]
  text(): string
}

/** Starts a bare guest. */
export function start(host: MachineHost, spec: MachineSpec): Promise<Run> {
  return follow((onEvent) => host.createMachine(spec, onEvent))
}

/** Starts a machine; what it prints is taken at once. */
export async function follow(
  create: (onEvent: (event: MachineEvent) => void) => Promise<HostMachine>,
): Promise<Run> {
  const events: MachineEvent[] = []
  const machine: HostMachine = await create((event) => {
    events.push(event)
    if (event.type === 'data') machine.consumed(event.channel, event.data.length)
  })
  onTestFinished(async () => {
    await machine.stop().catch(() => {})
  })
  await machine.start()
  const text = () =>
    events.map((event) => (event.type === 'data' ? Buffer.from(event.data).toString('latin1') : '')).join('')
  return { machine, events, text }
}

/** Waits for its end. */
export async function finish(run: Run): Promise<MachineEnd> {
  await run.machine.ended
  return run.machine.stop()
}
