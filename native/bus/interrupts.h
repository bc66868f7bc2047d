// How devices interrupt the guest; implemented by kvm/ over the in-kernel irqchip.
#pragma once

#include <cstdint>

namespace kvitest {

// An MSI as the device's MSI-X table carries it (PCI 3.0, 6.8.2).
struct MsiMessage {
  std::uint64_t address;
  std::uint32_t data;
};

class InterruptController {
 public:
  virtual ~InterruptController() = default;
  // Drives an IOAPIC/PIC input (KVM_IRQ_LINE).
  virtual void set_irq_line(std::uint32_t gsi, bool level) = 0;
  // Delivers one message (KVM_SIGNAL_MSI). Callable from any thread.
  virtual void signal_msi(const MsiMessage& message) = 0;
};

}  // namespace kvitest
