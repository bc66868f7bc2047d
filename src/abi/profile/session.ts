/** What the probes work on: one session of raw access, fds of it, and the ways to ask many things at once. */
import { ioctlCall, type RawKvm } from '../../host/raw/kvm.ts'
import { KvitestError } from '../../native/error.ts'
import type { RawArgument, RawCall, RawHandle, RawPatch, RawResult } from '../../native/raw-contract.ts'
import { catalogue } from '../catalogue/catalogue.ts'

/** A value of a profile: a count as a number, bits and addresses as `0x...`, an outcome by its name. */
export type Value = number | string
/** Values by key. */
export type Entries = Record<string, Value>

/** Calls of one round trip. */
const batchSize = 256
/** Milliseconds until a call counts as one that hangs: a busy lab is not told from another kernel. */
export const patience = 20_000
/** VMs of askFresh that live together. */
const vmsAtOnce = 32

export interface Ask {
  fd: RawHandle
  /** Name of the ioctl in the catalogue. */
  ioctl: string
  argument?: RawArgument
  patches?: RawPatch[]
}

/** The errno's name, `hung`, `expired`, or the value. */
export function outcomeOf(result: RawResult): Value {
  if (result.hung) return 'hung'
  if (result.expired) return 'expired'
  return result.errno ?? result.value
}

export function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`
}

/** The mask whose bit n is set where `isSet` says so. */
export function maskOf(bits: number, isSet: (bit: number) => boolean): string {
  let mask = 0n
  for (let bit = 0; bit < bits; bit++) if (isSet(bit)) mask |= 1n << BigInt(bit)
  return hex(mask)
}

/** Bytes with some fields of a structure of the catalogue set: `structure('kvm_enable_cap', { cap: 1 })`. */
export function structure(
  name: string,
  fields: Record<string, number | bigint>,
  bytes: Uint8Array = new Uint8Array(catalogue.struct(name).size),
): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  for (const [path, value] of Object.entries(fields)) {
    const [at, size] = catalogue.field(name, path)
    // The first element of an array, `args` of kvm_enable_cap.
    if (size >= 8) view.setBigUint64(at, BigInt.asUintN(64, BigInt(value)), true)
    else if (size === 4) view.setUint32(at, Number(value), true)
    else if (size === 2) view.setUint16(at, Number(value), true)
    else view.setUint8(at, Number(value))
  }
  return bytes
}

export class ProbeSession {
  readonly kvm: RawKvm
  /** An fd of /dev/kvm. */
  readonly system: RawHandle
  readonly areaSize: number

  private constructor(kvm: RawKvm, system: RawHandle, areaSize: number) {
    this.kvm = kvm
    this.system = system
    this.areaSize = areaSize
  }

  static async open(kvm: RawKvm): Promise<ProbeSession> {
    const as = kvm.nextHandle()
    const [opened] = await kvm.batch([{ do: 'open', path: '/dev/kvm', as }])
    if (opened!.errno) throw new KvitestError('open /dev/kvm', opened!.errno, { code: opened!.errno })
    const [size] = await kvm.batch([
      ioctlCall({ handle: as }, catalogue.request('KVM_GET_VCPU_MMAP_SIZE'), 0),
    ])
    return new ProbeSession(kvm, as, size!.value)
  }

  /** One result a call, in their order. */
  async calls(calls: RawCall[]): Promise<RawResult[]> {
    const results: RawResult[] = []
    for (let at = 0; at < calls.length; at += batchSize) {
      const group = calls.slice(at, at + batchSize)
      results.push(...(await this.kvm.batch(group.map((call) => ({ deadline: patience, ...call })))))
    }
    return results
  }

  /** As calls(); what an ioctl makes an fd of is closed again. */
  async ask(asks: readonly Ask[]): Promise<RawResult[]> {
    const calls = asks.map(({ fd, ioctl, argument = 0, patches }) => ({
      do: 'ioctl' as const,
      fd,
      request: catalogue.request(ioctl),
      argument,
      as: this.kvm.nextHandle(),
      ...(patches ? { patches } : {}),
    }))
    const results = await this.calls(calls)
    const made = calls.filter((_, index) => results[index]!.madeFd).map((call) => call.as)
    await this.close(...made)
    return results
  }

  /**
   * As ask(), each on a VM of its own, or its vCPU: `kind` says which. Many VMs at once, and closed side by side: a lab
   * waits for the end of a VM much longer than it works for it.
   */
  async askFresh(asks: readonly (Omit<Ask, 'fd'> & { kind: 'vm' | 'vcpu' })[]): Promise<RawResult[]> {
    const results: RawResult[] = []
    const [createVm, createVcpu] = ['KVM_CREATE_VM', 'KVM_CREATE_VCPU'].map((name) => catalogue.request(name))
    for (let at = 0; at < asks.length; at += vmsAtOnce) {
      const group = asks.slice(at, at + vmsAtOnce)
      const vms = group.map(() => this.kvm.nextHandle())
      const vcpus = group.map(({ kind }) => (kind === 'vcpu' ? this.kvm.nextHandle() : undefined))
      await this.#made(
        vms.map((as) => ({ do: 'ioctl', fd: this.system, request: createVm!, as })),
        'KVM_CREATE_VM',
      )
      await this.#made(
        vcpus.flatMap((as, i) =>
          as === undefined ? [] : [{ do: 'ioctl' as const, fd: vms[i]!, request: createVcpu!, as }],
        ),
        'KVM_CREATE_VCPU',
      )
      results.push(...(await this.ask(group.map((ask, i) => ({ ...ask, fd: vcpus[i] ?? vms[i]! })))))
      await this.close(...vcpus.filter((fd) => fd !== undefined))
      await this.kvm.batch([
        vms.map((fd, i) => ({ do: 'close', fd, thread: `closer ${i}`, deadline: patience })),
      ])
    }
    return results
  }

  /** Calls that make an fd each. */
  async #made(calls: RawCall[], ioctl: string): Promise<void> {
    for (const result of await this.calls(calls)) {
      const outcome = String(outcomeOf(result))
      if (!result.madeFd)
        throw new KvitestError('dump the profile', `${ioctl}: ${outcome}`, { code: outcome })
    }
  }

  /** The bytes that a KVM_GET_ gives, or the errno. */
  async get(fd: RawHandle, ioctl: string, argument: Uint8Array): Promise<Uint8Array | string> {
    const [result] = await this.ask([{ fd, ioctl, argument }])
    const outcome = outcomeOf(result!)
    return typeof outcome === 'string' ? outcome : result!.data!
  }

  async #make(fd: RawHandle, ioctl: string, argument: number): Promise<RawHandle> {
    const as = this.kvm.nextHandle()
    await this.#made([{ do: 'ioctl', fd, request: catalogue.request(ioctl), argument, as }], ioctl)
    return as
  }

  vm(): Promise<RawHandle> {
    return this.#make(this.system, 'KVM_CREATE_VM', 0)
  }

  vcpu(vm: RawHandle, id = 0): Promise<RawHandle> {
    return this.#make(vm, 'KVM_CREATE_VCPU', id)
  }

  async close(...fds: RawHandle[]): Promise<void> {
    await this.calls(fds.map((fd) => ({ do: 'close', fd })))
  }

  /** With a VM of its own, gone afterwards. */
  async withVm<T>(work: (vm: RawHandle) => Promise<T>): Promise<T> {
    const vm = await this.vm()
    try {
      return await work(vm)
    } finally {
      await this.close(vm)
    }
  }

  /** With a vCPU of a VM of its own. */
  async withVcpu<T>(work: (vcpu: RawHandle, vm: RawHandle) => Promise<T>): Promise<T> {
    return this.withVm(async (vm) => {
      const vcpu = await this.vcpu(vm)
      try {
        return await work(vcpu, vm)
      } finally {
        await this.close(vcpu)
      }
    })
  }
}
