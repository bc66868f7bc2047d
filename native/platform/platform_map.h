// Where the platform's devices live, and the ACPI description that says the same to the guest.
#pragma once

#include <cstdint>
#include <vector>

#include "native/boot/acpi.h"

namespace kvitest {

inline constexpr std::uint16_t kSerialPort = 0x3f8;  // COM1, 8 ports
inline constexpr std::uint32_t kSerialGsi = 4;
inline constexpr std::uint16_t kI8042Port = 0x60;  // to 0x64, 5 ports
inline constexpr std::uint16_t kRtcPort = 0x70;    // index and data, 2 ports
inline constexpr std::uint16_t kDebugPort = 0xe9;
inline constexpr std::uint16_t kTestExitPort = 0xf4;  // 4 ports
inline constexpr std::uint16_t kPvpanicPort = 0x505;
inline constexpr std::uint16_t kPowerPort = 0x600;  // sleep control, sleep status, reset: 3 ports
inline constexpr std::uint32_t kVmGenIdGsi = 5;
inline constexpr std::uint16_t kPciHotplugPort = 0x620;  // three registers of 32 bits
inline constexpr std::uint32_t kPciHotplugGsi = 6;

// The IOAPIC input of a PCI slot's INTA#: slots share 16..23, which no ISA device uses.
constexpr std::uint32_t pci_slot_gsi(std::uint8_t slot) {
  return 16 + slot % 8;
}

// Where the device of a slot is when it is a virtio-mmio one; its interrupt is the slot's.
constexpr std::uint64_t virtio_mmio_address(std::uint8_t slot) {
  return 0xE000'0000 + (slot - 1) * 0x1000u;
}

// The machine's whole platform: PCI, serial, RTC, power, pvpanic, vmgenid.
// pci_slots: the taken ones, which may be unplugged.
AcpiPlatform describe_platform(unsigned cpus, const std::vector<std::uint8_t>& mmio_slots = {},
                               const std::vector<std::uint8_t>& pci_slots = {});

}  // namespace kvitest
