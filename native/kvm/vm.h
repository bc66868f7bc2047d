// One KVM virtual machine: memory slots and the in-kernel interrupt controllers.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>

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
  // KVM_IRQFD: what signals the eventfd delivers this MSI; asked again, this other one. False when
  // the host does not. Any thread.
  bool add_irqfd(int eventfd, std::uint64_t address, std::uint32_t data);
  // Does nothing for one that was not added.
  void remove_irqfd(int eventfd);

 private:
  // An irqfd names a route, not a message.
  struct MsiRoute {
    std::uint32_t gsi;
    std::uint64_t address;
    std::uint32_t data;
  };
  // With routes_mutex_ held.
  bool set_routes() const;
  bool set_irqfd(int eventfd, std::uint32_t gsi, bool on) const;
  std::uint32_t free_gsi() const;

  const System& system_;
  UniqueFd fd_;
  bool irqchip_;
  std::mutex routes_mutex_;
  std::map<int, MsiRoute> routes_;  // by eventfd
};

}  // namespace kvitest
