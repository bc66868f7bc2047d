#include "native/kvm/vm_state.h"

#include <linux/kvm.h>

#include "native/kvm/ioctl.h"
#include "native/kvm/kernel_bytes.h"

namespace kvitest {
namespace {

constexpr std::uint32_t kIrqInputs = 24;  // of the IOAPIC; the first 16 are the PICs' too

}  // namespace

SavedVm save_vm(const Vm& vm, const Vcpu& first) {
  SavedVm saved;
  saved.clock = read_clocks(vm, first);
  if (!vm.has_irqchip()) return saved;
  for (std::size_t chip = 0; chip < saved.irqchips.size(); ++chip) {
    kvm_irqchip request{};
    request.chip_id = static_cast<std::uint32_t>(chip);
    saved.irqchips[chip] = get_bytes(vm.fd(), KVM_GET_IRQCHIP, "KVM_GET_IRQCHIP", request);
  }
  return saved;
}

void restore_vm(Vm& vm, const Vcpu& first, const SavedVm& saved) {
  // After the vCPUs' MSRs: the clock is a function of their TSC.
  set_kvmclock(vm, first, saved.clock);
  if (!vm.has_irqchip()) return;
  // KVM keeps the lines' levels outside kvm_irqchip, those of the guest that is taken back too: all
  // low, and whatever is asserted is raised again by its device.
  for (std::uint32_t gsi = 0; gsi < kIrqInputs; ++gsi) vm.set_irq_line(gsi, false);
  // The PICs before the IOAPIC: setting the IOAPIC delivers what is pending there.
  for (std::size_t chip = 0; chip < saved.irqchips.size(); ++chip) {
    auto state = from_bytes<kvm_irqchip>(saved.irqchips[chip], "kvm_irqchip");
    state.chip_id = static_cast<std::uint32_t>(chip);  // a file may name another
    kvm_ioctl(vm.fd(), KVM_SET_IRQCHIP, "KVM_SET_IRQCHIP", &state, "the checkpoint's state");
  }
}

}  // namespace kvitest
