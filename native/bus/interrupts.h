// How devices interrupt the guest; implemented by kvm/ over the in-kernel irqchip.
#pragma once

#include <cstdint>

namespace kvitest {

// An MSI as the device's MSI-X table carries it (PCI 3.0, 6.8.2).
struct MsiMessage {
  std::uint64_t address;
  std::uint32_t data;
  bool operator==(const MsiMessage&) const = default;
};

class InterruptController {
 public:
  virtual ~InterruptController() = default;
  // Drives an IOAPIC/PIC input (KVM_IRQ_LINE).
  virtual void set_irq_line(std::uint32_t gsi, bool level) = 0;
  // Delivers one message (KVM_SIGNAL_MSI). Callable from any thread.
  virtual void signal_msi(const MsiMessage& message) = 0;
  // From now on whatever signals the eventfd delivers the message, without us (KVM_IRQFD), and
  // nobody else who waits for the eventfd hears of it; asked again, with this other message. False
  // when the host does not: the signals are then for who reads the eventfd. Any thread.
  virtual bool add_irqfd(int, const MsiMessage&) { return false; }
  // Before the eventfd is closed.
  virtual void remove_irqfd(int) {}
};

}  // namespace kvitest
