/** The machine that a tool gives its guest: one axis of a matrix. */
import type { ProgramNeed } from '../host/program/contract.ts'
import { bytesOf } from '../native/size.ts'

/** What is absent is as the tool has it by itself: one CPU, 256 MiB, devices on PCI. */
export interface GuestMachine {
  cpus?: number
  /** Bytes, or such as `512M`. */
  memory?: number | string
  /** What the virtio devices of the machine are attached to. */
  transport?: 'pci' | 'mmio'
  /** The machine type of a VMM that has several: QEMU's `q35`. */
  type?: string
}

/** How a tool starts its guest. */
export interface ToolSetup {
  /** `kvm`, `tcg` */
  accelerator: string
  machine: GuestMachine
}

export const defaultSetup: ToolSetup = { accelerator: 'kvm', machine: {} }

const defaultMemory = 256 << 20

export function cpusOf({ cpus = 1 }: GuestMachine): number {
  return cpus
}

/** Bytes. */
export function memoryOf({ memory }: GuestMachine): number {
  return memory === undefined ? defaultMemory : bytesOf(memory)!
}

export function mebibytesOf(machine: GuestMachine): number {
  return memoryOf(machine) >> 20
}

/** What a VMM takes of its host with such a guest. */
export function needOf(machine: GuestMachine): ProgramNeed {
  return { cpus: cpusOf(machine), memory: memoryOf(machine) + (128 << 20) }
}

/** Why nothing can be this machine; undefined for one that a tool may have. */
export function faultOf(machine: GuestMachine): string | undefined {
  const { cpus = 1, memory = '256M', transport = 'pci' } = machine
  if (!Number.isInteger(cpus) || cpus < 1) return `cpus: ${cpus} is no number of CPUs`
  const bytes = bytesOf(memory)
  if (bytes === undefined || bytes === 0 || bytes % (1 << 20) !== 0)
    return `memory: ${memory} is no size in MiB`
  if (!['pci', 'mmio'].includes(transport)) return `transport: ${transport} is neither pci nor mmio`
  const known = ['cpus', 'memory', 'transport', 'type']
  const unknown = Object.keys(machine).find((key) => !known.includes(key))
  return unknown === undefined ? undefined : `a machine has no ${unknown}`
}

/** For a tool that takes only these of a machine: why it does not have this one. */
export function takesOnly(...fields: (keyof GuestMachine)[]): (machine: GuestMachine) => string | undefined {
  return (machine) => {
    const other = (Object.keys(machine) as (keyof GuestMachine)[]).find((field) => !fields.includes(field))
    return other === undefined ? undefined : `it takes ${fields.join(' and ')}, not ${other}`
  }
}
