#include "native/platform/platform_map.h"

#include "native/boot/layout.h"
#include "native/bus/pci.h"
#include "native/platform/power.h"

namespace kvitest {

AcpiPlatform describe_platform(unsigned cpus, const std::vector<std::uint8_t>& mmio_slots,
                               const std::vector<std::uint8_t>& pci_slots) {
  AcpiPlatform platform;
  platform.cpus = cpus;
  platform.pci_config_port = kPciConfigAddressPort;
  platform.pci_io_base = 0x1000;
  platform.pci_io_size = 0xf000;
  platform.pci_mmio32_base = kPciMmio32Base;
  platform.pci_mmio32_size = kPciMmio32Size;
  for (std::uint8_t slot = 1; slot < platform.pci_slot_gsi.size(); ++slot) {
    platform.pci_slot_gsi[slot] = static_cast<std::uint8_t>(pci_slot_gsi(slot));
  }
  platform.serial_port = kSerialPort;
  platform.serial_gsi = kSerialGsi;
  platform.rtc_port = kRtcPort;
  platform.sleep_control_port = kPowerPort + kSleepControlOffset;
  platform.sleep_status_port = kPowerPort + kSleepStatusOffset;
  platform.reset_port = kPowerPort + kResetOffset;
  platform.reset_value = kResetValue;
  platform.pvpanic_port = kPvpanicPort;
  platform.vmgenid_page = kVmGenIdPage;
  platform.vmgenid_gsi = kVmGenIdGsi;
  platform.pci_hotplug_port = kPciHotplugPort;
  platform.pci_hotplug_gsi = kPciHotplugGsi;
  platform.pci_hotplug_slots = pci_slots;
  for (const std::uint8_t slot : mmio_slots) {
    platform.virtio_mmio.push_back({.base = static_cast<std::uint32_t>(virtio_mmio_address(slot)),
                                    .size = 0x1000,
                                    .gsi = pci_slot_gsi(slot)});
  }
  return platform;
}

}  // namespace kvitest
