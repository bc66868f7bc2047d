// From a payload to vCPUs that can run it, and from vCPUs to what a person wants to see of them.
#pragma once

#include "native/boot/acpi.h"
#include "native/boot/load.h"
#include "native/kvm/system.h"
#include "native/kvm/vcpu.h"
#include "native/machine/end.h"
#include "native/machine/spec.h"
#include "native/memory/guest_memory.h"

namespace kvitest {

// Loads what spec.payload names. Throws Error naming the file.
BootState load_payload(const MachineSpec& spec, GuestMemory& memory, const AcpiPlatform& platform);

// Everything a vCPU needs before its first KVM_RUN. cpuid is what KVM supports.
void set_up_vcpu(Vcpu& vcpu, const MachineSpec& spec, std::span<const CpuidEntry> supported_cpuid,
                 const BootState& boot);

// The vCPU must not be in KVM_RUN.
VcpuState sample_vcpu(const Vcpu& vcpu);

}  // namespace kvitest
