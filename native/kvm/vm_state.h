// A VM's interrupt controllers and clock as a checkpoint holds them.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "native/kvm/vm.h"
#include "native/state/archive.h"

namespace kvitest {

// KVM's own structures, as it gave them. There is no PIT: our machines have none.
struct SavedVm {
  static constexpr StateTag kTag{"vm", 1};
  std::vector<std::byte> clock;  // kvm_clock_data
  // kvm_irqchip of PIC master, PIC slave, IOAPIC; with irqchip only.
  std::array<std::vector<std::byte>, 3> irqchips;

  template <typename Archive>
  void fields(Archive& archive) {
    archive(clock, irqchips);
  }
};

// After the vCPUs were saved. Throws Error.
SavedVm save_vm(const Vm& vm);
// After the vCPUs were restored, before devices raise interrupts. Throws Error.
void restore_vm(Vm& vm, const SavedVm& saved);

}  // namespace kvitest
