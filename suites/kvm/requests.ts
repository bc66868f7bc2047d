/** Requests that the checks make, numbered as in linux/kvm.h: until the catalogue has them. */

const kvmIo = 0xae
const direction = { none: 0, write: 1, read: 2, both: 3 }

function request(way: keyof typeof direction, number: number, size = 0): number {
  // >>> 0: the result is unsigned.
  return ((direction[way] << 30) | (size << 16) | (kvmIo << 8) | number) >>> 0
}

export const KVM = {
  GET_API_VERSION: request('none', 0x00),
  CREATE_VM: request('none', 0x01),
  GET_MSR_INDEX_LIST: request('both', 0x02, 4),
  CHECK_EXTENSION: request('none', 0x03),
  GET_VCPU_MMAP_SIZE: request('none', 0x04),
  GET_SUPPORTED_CPUID: request('both', 0x05, 8),
  GET_EMULATED_CPUID: request('both', 0x09, 8),
  GET_MSR_FEATURE_INDEX_LIST: request('both', 0x0a, 4),
  CREATE_VCPU: request('none', 0x41),
  GET_DIRTY_LOG: request('write', 0x42, 16),
  SET_USER_MEMORY_REGION: request('write', 0x46, 32),
  SET_TSS_ADDR: request('none', 0x47),
  SET_IDENTITY_MAP_ADDR: request('write', 0x48, 8),
  CREATE_IRQCHIP: request('none', 0x60),
  IRQ_LINE: request('write', 0x61, 8),
  SET_GSI_ROUTING: request('write', 0x6a, 8),
  IRQFD: request('write', 0x76, 32),
  CREATE_PIT2: request('write', 0x77, 64),
  SET_BOOT_CPU_ID: request('none', 0x78),
  IOEVENTFD: request('write', 0x79, 64),
  RUN: request('none', 0x80),
  GET_REGS: request('read', 0x81, 144),
  SET_REGS: request('write', 0x82, 144),
  GET_SREGS: request('read', 0x83, 312),
  SET_SREGS: request('write', 0x84, 312),
  INTERRUPT: request('write', 0x86, 4),
  GET_FPU: request('read', 0x8c, 416),
  SET_FPU: request('write', 0x8d, 416),
  GET_LAPIC: request('read', 0x8e, 1024),
  SET_CPUID2: request('write', 0x90, 8),
  GET_MP_STATE: request('read', 0x98, 4),
  SET_MP_STATE: request('write', 0x99, 4),
  NMI: request('none', 0x9a),
  GET_VCPU_EVENTS: request('read', 0x9f, 64),
  SET_VCPU_EVENTS: request('write', 0xa0, 64),
  GET_DEBUGREGS: request('read', 0xa1, 128),
  SET_DEBUGREGS: request('write', 0xa2, 128),
  ENABLE_CAP: request('write', 0xa3, 104),
  SIGNAL_MSI: request('write', 0xa5, 32),
  SMI: request('none', 0xb7),
  GET_STATS_FD: request('none', 0xce),
  CREATE_DEVICE: request('both', 0xe0, 12),
} as const

/** A request of KVM's type that no kernel knows. */
export const unknownRequest = request('none', 0xff)

export const CAP = {
  IRQCHIP: 0,
  USER_MEMORY: 3,
  NR_VCPUS: 9,
  NR_MEMSLOTS: 10,
  MAX_VCPUS: 66,
  READONLY_MEM: 81,
  MAX_VCPU_ID: 128,
  IMMEDIATE_EXIT: 136,
} as const
