// What CPUID tells each vCPU.
#pragma once

#include <span>
#include <vector>

#include "native/kvm/registers.h"

namespace kvitest {

struct CpuTopology {
  unsigned index = 0;  // of this vCPU, also its local APIC id
  unsigned count = 1;  // vCPUs: cores of one socket, one thread each
  // There is an in-kernel irqchip: offer TSC-deadline mode of its local APIC timer, which KVM
  // emulates on every processor but does not list as supported (api.rst, KVM_GET_SUPPORTED_CPUID).
  bool local_apic = true;
};

// supported: KVM_GET_SUPPORTED_CPUID's answer. Returns the table for KVM_SET_CPUID2, with APIC ids,
// core counts and topology leaves (1, 4, 0xb, 0x1f, 0x80000001, 0x80000008, 0x8000001d, 0x8000001e)
// made to agree.
std::vector<CpuidEntry> vcpu_cpuid(std::span<const CpuidEntry> supported,
                                   const CpuTopology& topology);

}  // namespace kvitest
