// A VM's interrupt controllers and clock as a checkpoint holds them.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "native/kvm/guest_clock.h"
#include "native/kvm/vm.h"
#include "native/state/archive.h"

namespace kvitest {

// KVM's own structures, as it gave them. There is no PIT: our machines have none.
struct SavedVm {
  static constexpr StateTag kTag{"vm", 2};
  ClockReading clock;
  // kvm_irqchip of PIC master, PIC slave, IOAPIC; with irqchip only.
  std::array<std::vector<std::byte>, 3> irqchips;

  template <typename Archive>
  void fields(Archive& archive) {
    archive(clock, irqchips);
  }
};

// After the vCPUs were saved; `first` is one of them. Throws Error.
SavedVm save_vm(const Vm& vm, const Vcpu& first);
// After the vCPUs were restored, before devices raise interrupts; `first` is the same one. Throws
// Error.
void restore_vm(Vm& vm, const Vcpu& first, const SavedVm& saved);

}  // namespace kvitest
