// A vCPU as a checkpoint holds it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "native/kvm/registers.h"
#include "native/kvm/vcpu.h"
#include "native/state/archive.h"

namespace kvitest {

// KVM's own structures, as it gave them; one that this host does not have is empty.
struct SavedVcpu {
  static constexpr StateTag kTag{"vcpu", 2};
  std::vector<CpuidEntry> cpuid;  // as it was set
  std::uint32_t tsc_khz = 0;      // 0: unknown
  std::uint64_t tsc = 0;          // what the guest read from its TSC...
  std::uint64_t tsc_offset = 0;   // ... and that less the host's; only where has_tsc_offset
  bool has_tsc_offset = false;
  std::uint64_t cr8 = 0;                     // without irqchip KVM takes it from kvm_run
  std::vector<std::byte> mp_state;           // kvm_mp_state; with irqchip only
  std::vector<std::byte> registers;          // kvm_regs
  std::vector<std::byte> special_registers;  // kvm_sregs
  std::vector<std::byte> nested;             // kvm_nested_state; empty where KVM does not nest
  std::vector<std::byte> xsave;              // 4096 bytes or what KVM_CAP_XSAVE2 says
  std::vector<std::byte> xcrs;               // kvm_xcrs
  std::vector<std::byte> debug_registers;    // kvm_debugregs
  std::vector<std::byte> lapic;              // kvm_lapic_state; with irqchip only
  std::vector<MsrEntry> msrs;
  std::vector<std::byte> events;  // kvm_vcpu_events

  template <typename Archive>
  void fields(Archive& archive) {
    archive(cpuid, tsc_khz, tsc, tsc_offset, has_tsc_offset, cr8, mp_state, registers,
            special_registers, nested, xsave, xcrs, debug_registers, lapic, msrs, events);
  }
};

// What a checkpoint holds of them; zeros where it holds nothing of that size.
GeneralRegisters general_registers(const SavedVcpu& saved);
SpecialRegisters special_registers(const SavedVcpu& saved);

// The vCPU must be outside KVM_RUN with its last exit completed, and so must all others of its VM.
// Throws Error.
SavedVcpu save_vcpu(Vcpu& vcpu);

// What makes a new vCPU the saved one's twin and cannot be changed once it has run: CPUID and TSC
// frequency. Before restore_vcpu(). Throws Error.
void shape_vcpu(Vcpu& vcpu, const SavedVcpu& saved);

// What the vCPU's guest reads from its TSC now. Throws Error.
std::uint64_t guest_tsc(const Vcpu& vcpu);
// That less the host's; none where KVM does not tell.
std::optional<std::uint64_t> tsc_offset(const Vcpu& vcpu);

// How far the host's TSC has come since the checkpoint: the same for all vCPUs of a VM, so that
// their TSCs keep the distances they had. `vcpu` is any of them, `saved` its state. 0 where KVM
// does not tell offsets.
std::uint64_t tsc_distance(const Vcpu& vcpu, const SavedVcpu& saved);

// Restores all but what shape_vcpu() did, as often as wanted. Throws Error; the vCPU is then not to
// be run.
void restore_vcpu(Vcpu& vcpu, const SavedVcpu& saved, std::uint64_t tsc_distance);

}  // namespace kvitest
