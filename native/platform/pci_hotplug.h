// The hotplug controller of PCI bus 0, which the DSDT drives (boot/acpi.cc): slots whose device
// leaves while the guest runs. Three registers of 32 bits, bit N is slot N:
//   0 events    reading clears: the host asks for the slot back; bit 0: look at all slots
//   4 present   slots that have their device
//   8 eject     what is written lets go of these slots (_EJ0)
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>

#include "native/bus/interrupts.h"
#include "native/bus/io_device.h"
#include "native/state/archive.h"

namespace kvitest {

struct PciHotplugState {
  static constexpr StateTag kTag{"pci-hotplug", 1};
  std::uint32_t events = 0;
  std::uint32_t present = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(events, present);
  }
};

inline constexpr std::uint64_t kPciHotplugPorts = 12;

class PciHotplug : public IoDevice {
 public:
  // eject: the guest let go of a slot that had its device, which is gone now. On the vCPU's thread.
  PciHotplug(InterruptController& interrupts, std::uint32_t gsi,
             std::function<void(std::uint8_t slot)> eject);

  // A device is put there before the guest starts. slot 1..31.
  void add(std::uint8_t slot);
  bool has(std::uint8_t slot) const;
  // Asks the guest to let go of it; false when the slot is empty.
  bool request(std::uint8_t slot);
  // It is gone: take_away() does it, then the guest is told to look. False when the slot is empty.
  bool vanish(std::uint8_t slot, const std::function<void()>& take_away);

  void io_read(std::uint64_t offset, std::span<std::byte> data) override;
  void io_write(std::uint64_t offset, std::span<const std::byte> data) override;

  void save(StateWriter& writer) const;
  // Before the functions of the bus are loaded: the slots that were empty are now.
  void load(StateReader& reader);
  // After the irqchip is restored: an event that the guest has not read is told again.
  void resume();

 private:
  void pulse();

  InterruptController& interrupts_;
  const std::uint32_t gsi_;
  const std::function<void(std::uint8_t)> eject_;
  mutable std::mutex mutex_;
  PciHotplugState state_;
};

}  // namespace kvitest
