#include "native/platform/platform_map.h"

#include "native/boot/layout.h"
#include "native/bus/pci.h"
#include "native/platform/power.h"

namespace kvitest {

AcpiPlatform describe_platform(unsigned cpus) {
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
  return platform;
}

}  // namespace kvitest
