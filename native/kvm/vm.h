// One KVM virtual machine: memory slots and the in-kernel interrupt controllers.
#pragma once

#include <cstdint>

#include "native/kvm/system.h"
#include "native/memory/guest_memory.h"
#include "native/unique_fd.h"

namespace kvitest {

class Vm {
 public:
  // The memory must outlive the Vm. With irqchip: PIC, IOAPIC and one LAPIC for each vCPU, in the
  // kernel.
  Vm(const System& system, const GuestMemory& memory, bool irqchip);
  // Closing the last fd of a VM with irqchip waits for SRCU grace periods, 12 to 15 ms on some
  // hosts: not for a thread that anybody waits on.
  ~Vm() = default;
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  int fd() const { return fd_.get(); }
  const System& system() const { return system_; }
  bool has_irqchip() const { return irqchip_; }

  // KVM_IRQ_LINE on the default routing: 0-15 PIC and IOAPIC, 16-23 IOAPIC. Any thread.
  void set_irq_line(std::uint32_t gsi, bool level);
  // KVM_SIGNAL_MSI. False when the guest blocked it (no such LAPIC, or LAPIC off). Any thread.
  bool signal_msi(std::uint64_t address, std::uint32_t data);
  // KVM_IOEVENTFD for MMIO writes of any size at this address, on or off. False when the host does
  // not: the writes are then exits, as any other. Any thread.
  bool set_ioeventfd(std::uint64_t address, int eventfd, bool on);

 private:
  const System& system_;
  UniqueFd fd_;
  bool irqchip_;
};

}  // namespace kvitest
