#include "native/platform/platform_map.h"

#include <doctest/doctest.h>

#include "native/bus/io_bus.h"
#include "native/bus/pci.h"
#include "native/platform/debug_port.h"
#include "native/platform/exit_port.h"
#include "native/platform/i8042.h"
#include "native/platform/power.h"
#include "native/platform/pvpanic.h"
#include "native/platform/rtc.h"
#include "native/platform/serial.h"

namespace kvitest {
namespace {

TEST_CASE("platform map: every device has ports of its own beside PCI's") {
  IoBus pio;
  PciBus pci(pio);
  Serial serial(nullptr, kSerialGsi, {});
  I8042 i8042([] {});
  Rtc rtc;
  DebugPort debug([](std::span<const std::byte>) {});
  TestExit exit([](std::uint32_t) {});
  Pvpanic pvpanic([](std::uint8_t) {});
  Power power({[] {}, [] {}});

  CHECK_NOTHROW(pio.insert(kSerialPort, kSerialPorts, serial));
  CHECK_NOTHROW(pio.insert(kI8042Port, kI8042Ports, i8042));
  CHECK_NOTHROW(pio.insert(kRtcPort, kRtcPorts, rtc));
  CHECK_NOTHROW(pio.insert(kDebugPort, 1, debug));
  CHECK_NOTHROW(pio.insert(kTestExitPort, kTestExitPorts, exit));
  CHECK_NOTHROW(pio.insert(kPvpanicPort, 1, pvpanic));
  CHECK_NOTHROW(pio.insert(kPowerPort, kPowerPorts, power));
}

TEST_CASE("platform map: ACPI describes the registers where they are") {
  const AcpiPlatform platform = describe_platform(4);

  CHECK(platform.cpus == 4);
  CHECK(platform.pci_config_port == 0xcf8);
  CHECK(platform.sleep_control_port == 0x600);
  CHECK(platform.sleep_status_port == 0x601);
  CHECK(platform.reset_port == 0x602);
  CHECK(platform.pci_slot_gsi[0] == 0);
  CHECK(platform.pci_slot_gsi[1] == pci_slot_gsi(1));
  CHECK(platform.pci_slot_gsi[31] == pci_slot_gsi(31));
}

TEST_CASE("platform map: a virtio-mmio device is beside PCI's window, with its slot's interrupt") {
  const AcpiPlatform platform = describe_platform(1, {1, 31});

  REQUIRE(platform.virtio_mmio.size() == 2);
  CHECK(platform.virtio_mmio[0].base == platform.pci_mmio32_base + platform.pci_mmio32_size);
  CHECK(platform.virtio_mmio[0].gsi == pci_slot_gsi(1));
  CHECK(platform.virtio_mmio[1].base == virtio_mmio_address(31));
  // Below the IOAPIC.
  CHECK(platform.virtio_mmio[1].base + platform.virtio_mmio[1].size <= 0xfec0'0000);
}

TEST_CASE("platform map: no PCI window reaches into a device's ports") {
  const AcpiPlatform platform = describe_platform(1);

  CHECK(platform.pci_io_base >= kPowerPort + kPowerPorts);
  CHECK(platform.pci_io_base > 0xcff);
}

}  // namespace
}  // namespace kvitest
