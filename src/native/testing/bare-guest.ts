import { accessSync, constants } from 'node:fs'
import { dirname, join } from 'node:path'
import { addonPath, loadAddon } from '../addon.ts'
import type {
  ForkOptions,
  MachineEnd,
  MachineEvent,
  MachineSpec,
  NativeCheckpoint,
  NativeMachine,
} from '../contract.ts'

/** Why tests that need a KVM cannot run here; undefined when they can. */
export function whyNoKvm(): string | undefined {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK)
    return undefined
  } catch (error) {
    return `no usable /dev/kvm: ${(error as NodeJS.ErrnoException).code}`
  }
}

export function bareSpec(guest: string, ring: 0 | 3 = 0): MachineSpec {
  const elf = join(dirname(addonPath()), 'guests', `${guest}.elf`)
  return { name: guest, cpus: 1, memory: 2 << 20, payload: { kind: 'bare', elf, ring }, devices: [] }
}

/** A machine with everything it said. */
export interface Recorded {
  machine: NativeMachine
  events: MachineEvent[]
  ended: Promise<MachineEnd>
  text(channel: string): string
  /** Resolves when the channel has said it. */
  said(channel: string, text: string): Promise<void>
}

export function createBare(spec: MachineSpec, options: RecordOptions = {}): Promise<Recorded> {
  return record((onEvent) => loadAddon().createMachine(spec, onEvent), options)
}

/** A fork, not started. */
export function forkOf(checkpoint: NativeCheckpoint, options: ForkOptions = {}): Promise<Recorded> {
  return record((onEvent) => checkpoint.fork(options, onEvent))
}

/** A fork that runs. */
export async function startFork(checkpoint: NativeCheckpoint, options: ForkOptions = {}): Promise<Recorded> {
  const recorded = await forkOf(checkpoint, options)
  await recorded.machine.start()
  return recorded
}

interface RecordOptions {
  acknowledge?: boolean
}

async function record(
  create: (onEvent: (event: MachineEvent) => void) => Promise<NativeMachine>,
  options: RecordOptions = {},
): Promise<Recorded> {
  const events: MachineEvent[] = []
  const ended = Promise.withResolvers<MachineEnd>()
  const waiting = new Set<() => void>()
  const text = (channel: string) =>
    events
      .filter((event) => event.type === 'data' && event.channel === channel)
      .map((event) => Buffer.from((event as { data: Uint8Array }).data).toString())
      .join('')
  let machine: NativeMachine | undefined
  machine = await create((event) => {
    events.push(event)
    if (event.type === 'data' && options.acknowledge !== false) {
      machine?.consumed(event.channel, event.data.length)
    }
    if (event.type === 'end') ended.resolve(event.end)
    for (const check of waiting) check()
  })
  const said = (channel: string, wanted: string) =>
    new Promise<void>((resolve) => {
      const check = () => {
        if (!text(channel).includes(wanted)) return
        waiting.delete(check)
        resolve()
      }
      waiting.add(check)
      check()
    })
  return { machine, events, ended: ended.promise, text, said }
}

/** Runs it to its own end. */
export async function runBare(spec: MachineSpec): Promise<Recorded & { end: MachineEnd }> {
  const recorded = await createBare(spec)
  await recorded.machine.start()
  const end = await recorded.ended
  await recorded.machine.stop()
  return { ...recorded, end }
}
