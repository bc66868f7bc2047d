// ACPI tables of the machine, hardware-reduced (ACPI 6.5, 4.1): RSDP, XSDT, FADT, MADT, DSDT.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "native/memory/guest_memory.h"

namespace kvitest {

// What the tables describe. The devices' folders hold the numbers and boot includes none of them,
// so machine/ passes them in. An optional device is absent when its port is 0.
struct AcpiVirtioMmio {
  std::uint32_t base = 0;
  std::uint32_t size = 0;
  std::uint32_t gsi = 0;
};

struct AcpiPlatform {
  unsigned cpus = 1;  // local APIC ids 0..cpus-1

  std::uint16_t pci_config_port = 0;  // eight ports of configuration mechanism 1
  std::uint16_t pci_io_base = 0;
  std::uint16_t pci_io_size = 0;
  std::uint64_t pci_mmio32_base = 0;
  std::uint64_t pci_mmio32_size = 0;
  std::uint64_t pci_mmio64_base = 0;  // size 0: no such window
  std::uint64_t pci_mmio64_size = 0;
  // IOAPIC input of INTA# by slot; 0: that slot has none.
  std::array<std::uint8_t, 32> pci_slot_gsi{};

  std::uint16_t serial_port = 0;
  std::uint8_t serial_gsi = 0;
  std::uint16_t rtc_port = 0;
  std::uint16_t sleep_control_port = 0;
  std::uint16_t sleep_status_port = 0;
  std::uint16_t reset_port = 0;
  std::uint8_t reset_value = 0;
  std::uint16_t pvpanic_port = 0;
  // The page with the generation id (layout.h reserves kVmGenIdPage); 0: none.
  Gpa vmgenid_page = 0;
  std::uint8_t vmgenid_gsi = 0;
  std::vector<AcpiVirtioMmio> virtio_mmio{};  // at most 100
  // Registers of the hotplug controller (platform/pci_hotplug.h), and the slots that it is for.
  std::uint16_t pci_hotplug_port = 0;
  std::uint8_t pci_hotplug_gsi = 0;
  std::vector<std::uint8_t> pci_hotplug_slots{};
};

// SLP_TYPx that \_S5 names and that the sleep control register gets on power-off.
inline constexpr std::uint8_t kAcpiS5SleepType = 5;

struct AcpiTable {
  std::string signature;
  Gpa address;
  std::vector<std::byte> bytes;
};

// The tables, RSDP first, laid out from base upward; checksums are right.
std::vector<AcpiTable> build_acpi(const AcpiPlatform& platform, Gpa base);

// Writes them to kAcpiBase and returns the RSDP's address. Throws Error.
Gpa write_acpi(GuestMemory& memory, const AcpiPlatform& platform);

}  // namespace kvitest
