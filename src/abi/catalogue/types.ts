/** The catalogue's data: src/abi/catalogue/data/VERSION.json. */
import type { Layout } from '../headers/dwarf.ts'
import type { Errno, FdKind } from './rst.ts'

export type { Field, Layout } from '../headers/dwarf.ts'
export type { Errno, FdKind } from './rst.ts'

export interface IoctlData {
  /** The number within KVMIO's. */
  nr: number
  /** Of the argument, from the kernel's side as the macros name it: `_IO`, `_IOR`, `_IOW`, `_IOWR`. */
  dir: '' | 'r' | 'w' | 'rw'
  /** Type of the argument, of those that have one: `kvm_regs`, `u32`. */
  struct?: string
  /** Bytes of the argument's type that the request number carries, on x86; 0 of `_IO`. */
  size: number
  /** The request number on x86, hexadecimal; absent where its structure is another architecture's. */
  request?: string
  /** On arm64, where it is not x86's. */
  requestArm64?: string
  fd: FdKind[]
  /** Capabilities to ask for first; empty when it is basic or has none. */
  cap: string[]
  /** Architectures that api.rst names; `all`; empty when it has no section or names none. */
  arch: string[]
  errnos: Errno[]
  /** Section of api.rst; absent when there is none. */
  doc?: string
}

export interface CapabilityData {
  value: number
  /** Where KVM_ENABLE_CAP takes it, as far as api.rst says. */
  enable?: ('vcpu' | 'vm')[]
  arch?: string[]
  doc?: string
}

export interface ExitReasonData {
  value: number
  /** Member of kvm_run's union that belongs to it. */
  member?: string
  /** Whether api.rst names it in its chapter on struct kvm_run. */
  documented: boolean
}

export interface StructData extends Layout {
  /** Bytes on arm64, where it is not x86's. */
  sizeArm64?: number
}

export interface CatalogueData {
  /** Kernel line: `6.12`. */
  version: string
  /** What it was made from; not compared when it is regenerated. */
  sources: Record<string, string>
  /** Of api.rst: number by title. */
  chapters: Record<string, string>
  ioctls: Record<string, IoctlData>
  capabilities: Record<string, CapabilityData>
  exitReasons: Record<string, ExitReasonData>
  structs: Record<string, StructData>
  /** All other integer constants of the headers on x86. */
  constants: Record<string, number | string>
}
