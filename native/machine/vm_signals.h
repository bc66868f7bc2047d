// What the buses ask of KVM: interrupts into the guest, and doorbells out of it.
#pragma once

#include <cstdint>

#include "native/bus/doorbells.h"
#include "native/bus/interrupts.h"
#include "native/kvm/vm.h"

namespace kvitest {

class VmInterrupts : public InterruptController {
 public:
  explicit VmInterrupts(Vm& vm) : vm_(vm) {}
  void set_irq_line(std::uint32_t gsi, bool level) override {
    // A UART exists without irqchip too; its interrupts then go nowhere.
    if (vm_.has_irqchip()) vm_.set_irq_line(gsi, level);
  }
  void signal_msi(const MsiMessage& message) override {
    if (vm_.has_irqchip()) vm_.signal_msi(message.address, message.data);
  }
  bool add_irqfd(int eventfd, const MsiMessage& message) override {
    return vm_.has_irqchip() && vm_.add_irqfd(eventfd, message.address, message.data);
  }
  void remove_irqfd(int eventfd) override { vm_.remove_irqfd(eventfd); }

 private:
  Vm& vm_;
};

class VmDoorbells : public Doorbells {
 public:
  explicit VmDoorbells(Vm& vm) : vm_(vm) {}
  // Refused, a write comes as an exit, by the bus.
  void add(std::uint64_t address, int eventfd) override {
    vm_.set_ioeventfd(address, eventfd, true);
  }
  void remove(std::uint64_t address, int eventfd) override {
    vm_.set_ioeventfd(address, eventfd, false);
  }

 private:
  Vm& vm_;
};

}  // namespace kvitest
