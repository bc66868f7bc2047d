// One virtual CPU. Every method but kick() belongs to whoever holds the vCPU: KVM serialises vCPU
// ioctls on a mutex that KVM_RUN holds, so another thread may sample it only while it is not in
// run().
#pragma once

#include <pthread.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "native/kvm/exit.h"
#include "native/kvm/registers.h"
#include "native/kvm/vm.h"
#include "native/unique_fd.h"

namespace kvitest {

class Vcpu {
 public:
  // The vm must outlive it.
  Vcpu(const Vm& vm, unsigned index);
  ~Vcpu();
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  unsigned index() const { return index_; }
  int fd() const { return fd_.get(); }
  const Vm& vm() const { return vm_; }

  // KVM_SET_CPUID2, once and before the first run() (EINVAL after it since Linux 5.16) and before
  // set_msrs(): KVM accepts an MSR only when CPUID shows its feature.
  void set_cpuid(std::span<const CpuidEntry> entries);
  // As it was set.
  std::span<const CpuidEntry> cpuid() const { return cpuid_; }
  // How many were set: KVM stops at the first that it refuses. Throws Error.
  std::size_t set_first_msrs(std::span<const MsrEntry> entries);
  // Throws Error naming the first MSR that KVM refused.
  void set_msrs(std::span<const MsrEntry> entries);
  // False when KVM refuses it. Throws Error.
  bool try_set_msr(const MsrEntry& entry);

  GeneralRegisters registers() const;
  void set_registers(const GeneralRegisters& registers);
  SpecialRegisters special_registers() const;
  void set_special_registers(const SpecialRegisters& registers);
  void set_fpu(const FpuState& fpu);

  // XCR0, which states XSAVE saves (KVM_SET_XCRS); after set_cpuid(), which says which are allowed.
  void set_xcr0(std::uint64_t value);

  // CR8 that the next run() enters the guest with: without irqchip KVM takes it from kvm_run,
  // whatever the special registers say.
  void set_run_cr8(std::uint64_t value);

  // One 32-bit LAPIC register, offset as in the SDM's table 11-1; needs the irqchip.
  std::uint32_t lapic_register(std::size_t offset) const;
  void set_lapic_register(std::size_t offset, std::uint32_t value);

  // Vectors that are set in one of the LAPIC's 256-bit registers, ascending: IRR at 0x200 (wait to
  // be taken), ISR at 0x100 (being handled); needs the irqchip.
  std::vector<std::uint8_t> lapic_vectors(std::size_t offset) const;
  // An NMI is being handled, and another one must wait for its IRET.
  bool nmi_masked() const;

  // `runnable`, `uninitialized`, `halted`...; nothing without irqchip.
  std::optional<std::string> mp_state() const;

  // KVM_NMI; needs the irqchip.
  void nmi();

  // KVM_RUN. The spans of the answer are valid until the next call. Throws Error when KVM_RUN
  // itself fails.
  Exit run();
  // Makes run() only complete the exit before: it then answers Interrupted without having been in
  // the guest, or the exit that completing gave. Until clear_kick(). On the vCPU's own thread.
  void set_complete_only();
  // Between a kick and this, run() returns Interrupted at once.
  void clear_kick();
  // From any thread: makes `thread`, which is in or about to enter run(), return from it.
  void kick(pthread_t thread);

  // How often each KVM_EXIT_ reason was seen. Read it while the vCPU does not run.
  std::span<const std::uint64_t, kExitReasons> exit_counts() const { return exit_counts_; }

 private:
  const Vm& vm_;
  unsigned index_;
  UniqueFd fd_;
  std::size_t run_size_ = 0;
  void* run_ = nullptr;
  std::vector<CpuidEntry> cpuid_;
  std::array<std::uint64_t, kExitReasons> exit_counts_{};
};

}  // namespace kvitest
