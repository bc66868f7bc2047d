#include "native/kvm/vm.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "native/error.h"
#include "native/kvm/flexible_table.h"
#include "native/kvm/ioctl.h"

namespace kvitest {
namespace {

// Four pages that Intel's real-mode emulation takes out of the guest's physical space, in the hole
// below 4 GiB between the IOAPIC/LAPIC and the top, where no RAM and no device of ours is.
constexpr std::uint64_t kIdentityMapAddress = 0xfffb'c000;
constexpr unsigned long kTssAddress = kIdentityMapAddress + kPageSize;

// Of the GSIs of an irqchip's own routing: all of them are pins of the IOAPIC, these of the PIC
// too.
constexpr std::uint32_t kIoapicPins = 24;
constexpr std::uint32_t kPicPins = 16;

}  // namespace

Vm::Vm(const System& system, const GuestMemory& memory, bool irqchip)
    : system_(system),
      fd_(static_cast<int>(kvm_ioctl(system.fd(), KVM_CREATE_VM, "KVM_CREATE_VM", 0UL))),
      irqchip_(irqchip) {
  // Before KVM_CREATE_IRQCHIP: with an irqchip every change of the slots waits for grace periods,
  // which on a software KVM costs 6.5 ms against 0.07 to 0.45 ms without.
  std::uint32_t slot = 0;
  for (const RamRegion& region : memory.regions()) {
    kvm_userspace_memory_region slot_spec{};
    slot_spec.slot = slot++;
    slot_spec.guest_phys_addr = region.base;
    slot_spec.memory_size = region.size;
    slot_spec.userspace_addr = reinterpret_cast<std::uint64_t>(region.host);
    kvm_ioctl(fd(), KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", &slot_spec,
              std::to_string(region.size >> 20) + " MiB of RAM");
  }

  // Both before the first vCPU exists: KVM_SET_IDENTITY_MAP_ADDR is EINVAL after (api.rst 4.35),
  // and Intel hosts without "unrestricted guest" read them when a vCPU starts. AMD ignores them.
  std::uint64_t identity_map = kIdentityMapAddress;
  kvm_ioctl(fd(), KVM_SET_IDENTITY_MAP_ADDR, "KVM_SET_IDENTITY_MAP_ADDR", &identity_map);
  kvm_ioctl(fd(), KVM_SET_TSS_ADDR, "KVM_SET_TSS_ADDR", kTssAddress);

  // Before the vCPUs: a vCPU gets its LAPIC when it is created, and only if the irqchip is there
  // (EINVAL afterwards).
  if (irqchip) kvm_ioctl(fd(), KVM_CREATE_IRQCHIP, "KVM_CREATE_IRQCHIP", 0UL);
}

void Vm::set_irq_line(std::uint32_t gsi, bool level) {
  kvm_irq_level line{};
  line.irq = gsi;
  line.level = level ? 1 : 0;
  kvm_ioctl(fd(), KVM_IRQ_LINE, "KVM_IRQ_LINE", &line, "GSI " + std::to_string(gsi));
}

bool Vm::signal_msi(std::uint64_t address, std::uint32_t data) {
  kvm_msi message{};
  message.address_lo = static_cast<std::uint32_t>(address);
  message.address_hi = static_cast<std::uint32_t>(address >> 32);
  message.data = data;
  // The guest chooses address and data: a message that reaches no LAPIC answers 0 or an errno, and
  // neither is a failure of the host.
  return ::ioctl(fd(), KVM_SIGNAL_MSI, &message) > 0;
}

bool Vm::set_ioeventfd(std::uint64_t address, int eventfd, bool on) {
  kvm_ioeventfd request{};
  request.addr = address;
  request.fd = eventfd;
  // Length 0 is any (KVM_CAP_IOEVENTFD_ANY_LENGTH).
  if (!on) request.flags = KVM_IOEVENTFD_FLAG_DEASSIGN;
  return ::ioctl(fd(), KVM_IOEVENTFD, &request) == 0;
}

bool Vm::add_irqfd(int eventfd, std::uint64_t address, std::uint32_t data) {
  const std::lock_guard lock(routes_mutex_);
  const auto found = routes_.find(eventfd);
  if (found != routes_.end()) {
    const MsiRoute before = found->second;
    found->second = {before.gsi, address, data};
    if (set_routes()) return true;
    found->second = before;
    return false;
  }
  const MsiRoute route{free_gsi(), address, data};
  routes_[eventfd] = route;
  if (set_routes() && set_irqfd(eventfd, route.gsi, true)) return true;
  routes_.erase(eventfd);
  return false;
}

void Vm::remove_irqfd(int eventfd) {
  const std::lock_guard lock(routes_mutex_);
  const auto found = routes_.find(eventfd);
  if (found == routes_.end()) return;
  set_irqfd(eventfd, found->second.gsi, false);
  // Its route goes with the next one that is set: nothing uses it.
  routes_.erase(found);
}

std::uint32_t Vm::free_gsi() const {
  std::uint32_t gsi = kIoapicPins;
  const auto is_taken = [this](std::uint32_t one) {
    return std::ranges::any_of(routes_,
                               [one](const auto& entry) { return entry.second.gsi == one; });
  };
  while (is_taken(gsi)) ++gsi;
  return gsi;
}

bool Vm::set_irqfd(int eventfd, std::uint32_t gsi, bool on) const {
  kvm_irqfd request{};
  request.fd = static_cast<std::uint32_t>(eventfd);
  request.gsi = gsi;
  if (!on) request.flags = KVM_IRQFD_FLAG_DEASSIGN;
  return ::ioctl(fd(), KVM_IRQFD, &request) == 0;
}

// The table replaces the one that KVM_CREATE_IRQCHIP made, which has the pins.
bool Vm::set_routes() const {
  IrqRoutingTable table(kIoapicPins + kPicPins + routes_.size());
  std::size_t at = 0;
  const auto add_pin = [&](std::uint32_t gsi, std::uint32_t chip, std::uint32_t pin) {
    kvm_irq_routing_entry entry{};
    entry.gsi = gsi;
    entry.type = KVM_IRQ_ROUTING_IRQCHIP;
    entry.u.irqchip.irqchip = chip;
    entry.u.irqchip.pin = pin;
    table.set(at++, entry);
  };
  for (std::uint32_t gsi = 0; gsi < kIoapicPins; ++gsi) add_pin(gsi, KVM_IRQCHIP_IOAPIC, gsi);
  for (std::uint32_t gsi = 0; gsi < kPicPins; ++gsi) {
    add_pin(gsi, gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, gsi % 8);
  }
  for (const auto& [eventfd, route] : routes_) {
    kvm_irq_routing_entry entry{};
    entry.gsi = route.gsi;
    entry.type = KVM_IRQ_ROUTING_MSI;
    entry.u.msi.address_lo = static_cast<std::uint32_t>(route.address);
    entry.u.msi.address_hi = static_cast<std::uint32_t>(route.address >> 32);
    entry.u.msi.data = route.data;
    table.set(at++, entry);
  }
  try {
    kvm_ioctl(fd(), kSetGsiRouting, "KVM_SET_GSI_ROUTING", table.data());
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace kvitest
