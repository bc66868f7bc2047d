/** Names of KVM_EXIT_ numbers (linux/kvm.h), x86's and those of all architectures. */
const exitNames: Record<number, string> = {
  0: 'unknown',
  1: 'exception',
  2: 'io',
  3: 'hypercall',
  4: 'debug',
  5: 'hlt',
  6: 'mmio',
  7: 'irq-window-open',
  8: 'shutdown',
  9: 'fail-entry',
  10: 'intr',
  11: 'set-tpr',
  12: 'tpr-access',
  16: 'nmi',
  17: 'internal-error',
  24: 'system-event',
  26: 'ioapic-eoi',
  27: 'hyperv',
  29: 'x86-rdmsr',
  30: 'x86-wrmsr',
  31: 'dirty-ring-full',
  32: 'ap-reset-hold',
  33: 'x86-bus-lock',
  34: 'xen',
  37: 'notify',
  39: 'memory-fault',
}

/** `struct kvm_run` (api.rst, section 5) as it was when KVM_RUN returned: a copy, which later runs do not change. */
export class RunArea {
  readonly bytes: Uint8Array
  readonly #view: DataView

  constructor(bytes: Uint8Array) {
    this.bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  get immediateExit(): number {
    return this.#view.getUint8(1)
  }

  get exitReason(): number {
    return this.#view.getUint32(8, true)
  }

  /** `io`, `mmio`, `hlt`... of KVM_EXIT_IO...; `exit-NN` for one that has no name here. */
  get exit(): string {
    return exitNames[this.exitReason] ?? `exit-${this.exitReason}`
  }

  get readyForInterruptInjection(): boolean {
    return this.#view.getUint8(12) !== 0
  }

  get ifFlag(): boolean {
    return this.#view.getUint8(13) !== 0
  }

  get flags(): number {
    return this.#view.getUint16(14, true)
  }

  get cr8(): bigint {
    return this.#view.getBigUint64(16, true)
  }

  get apicBase(): bigint {
    return this.#view.getBigUint64(24, true)
  }

  /** The union after the header, from byte 32 on. */
  u8(offset: number): number {
    return this.#view.getUint8(32 + offset)
  }

  u16(offset: number): number {
    return this.#view.getUint16(32 + offset, true)
  }

  u32(offset: number): number {
    return this.#view.getUint32(32 + offset, true)
  }

  u64(offset: number): bigint {
    return this.#view.getBigUint64(32 + offset, true)
  }

  /** Of KVM_EXIT_IO. Data of an `in` is what the next run gives to the guest. */
  get io(): { direction: 'in' | 'out'; size: number; port: number; count: number; data: Uint8Array } {
    const size = this.u8(1)
    const count = this.u32(4)
    const at = Number(this.u64(8))
    return {
      direction: this.u8(0) === 1 ? 'out' : 'in',
      size,
      port: this.u16(2),
      count,
      data: this.bytes.slice(at, at + size * count),
    }
  }

  /** Where in the area the data of this KVM_EXIT_IO are. */
  get ioDataOffset(): number {
    return Number(this.u64(8))
  }

  /** Of KVM_EXIT_MMIO. */
  get mmio(): { address: bigint; isWrite: boolean; data: Uint8Array } {
    const length = Math.min(this.u32(16), 8)
    return { address: this.u64(0), isWrite: this.u8(20) !== 0, data: this.bytes.slice(40, 40 + length) }
  }

  /** Of KVM_EXIT_INTERNAL_ERROR: KVM_INTERNAL_ERROR_. */
  get internalError(): { suberror: number } {
    return { suberror: this.u32(0) }
  }

  /** Of KVM_EXIT_FAIL_ENTRY. */
  get failEntry(): { reason: bigint; cpu: number } {
    return { reason: this.u64(0), cpu: this.u32(8) }
  }

  /** Of KVM_EXIT_SYSTEM_EVENT. */
  get systemEvent(): { type: number; data: bigint[] } {
    const count = Math.min(this.u32(4), 16)
    return { type: this.u32(0), data: Array.from({ length: count }, (_, i) => this.u64(8 + 8 * i)) }
  }

  /** Of KVM_EXIT_X86_RDMSR and KVM_EXIT_X86_WRMSR. */
  get msr(): { index: number; reason: number; data: bigint } {
    return { reason: this.u32(8), index: this.u32(12), data: this.u64(16) }
  }
}

/** Offset of `immediate_exit` in struct kvm_run. */
export const immediateExitOffset = 1
/** Offset of the data of a KVM_EXIT_MMIO read, which the next run gives to the guest. */
export const mmioDataOffset = 40
