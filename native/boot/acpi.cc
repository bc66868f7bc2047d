#include "native/boot/acpi.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <string_view>

#include "native/boot/aml.h"
#include "native/boot/layout.h"
#include "native/error.h"
#include "native/little_endian.h"

namespace kvitest {
namespace {

using Table = std::vector<std::byte>;

constexpr std::size_t kHeaderSize = 36;
constexpr std::size_t kRsdpSize = 36;
constexpr std::size_t kFadtSize = 276;
constexpr std::size_t kMadtSize = 44;
constexpr std::string_view kOemId = "KVITST";
constexpr std::string_view kOemTableId = "KVITEST ";
constexpr std::uint32_t kLocalApicAddress = 0xfee0'0000;
constexpr std::uint32_t kIoApicAddress = 0xfec0'0000;

void put_text(std::span<std::byte> table, std::size_t offset, std::string_view text) {
  std::memcpy(table.subspan(offset, text.size()).data(), text.data(), text.size());
}

void put_checksum(std::span<std::byte> bytes, std::size_t offset) {
  std::uint8_t sum = 0;
  bytes[offset] = std::byte{0};
  for (const std::byte b : bytes) sum = static_cast<std::uint8_t>(sum + std::to_integer<int>(b));
  bytes[offset] = static_cast<std::byte>(0x100 - sum);
}

// System description table header (ACPI 6.5, 5.2.6).
Table make_table(std::string_view signature, std::uint8_t revision, std::size_t size) {
  Table table(size);
  put_text(table, 0, signature);
  store_le<std::uint8_t>(table, 8, revision);
  put_text(table, 10, kOemId);
  put_text(table, 16, kOemTableId);
  store_le<std::uint32_t>(table, 24, 1);
  put_text(table, 28, "KVIT");
  store_le<std::uint32_t>(table, 32, 1);
  return table;
}

void finish_table(Table& table) {
  store_le<std::uint32_t>(table, 4, static_cast<std::uint32_t>(table.size()));
  put_checksum(table, 9);
}

// Generic address structure of one byte-wide port (ACPI 6.5, 5.2.3.2).
void put_port(Table& table, std::size_t offset, std::uint16_t port) {
  constexpr std::uint8_t kSystemIo = 1;
  constexpr std::uint8_t kByteAccess = 1;
  store_le<std::uint8_t>(table, offset, kSystemIo);
  store_le<std::uint8_t>(table, offset + 1, 8);
  store_le<std::uint8_t>(table, offset + 3, kByteAccess);
  store_le<std::uint64_t>(table, offset + 4, port);
}

Table build_rsdp(Gpa xsdt) {
  Table rsdp(kRsdpSize);
  put_text(rsdp, 0, "RSD PTR ");
  put_text(rsdp, 9, kOemId);
  store_le<std::uint8_t>(rsdp, 15, 2);
  store_le<std::uint32_t>(rsdp, 20, kRsdpSize);
  store_le<std::uint64_t>(rsdp, 24, xsdt);
  put_checksum(std::span(rsdp).first(20), 8);
  put_checksum(rsdp, 32);
  return rsdp;
}

Table build_xsdt(std::span<const Gpa> tables) {
  Table xsdt = make_table("XSDT", 1, kHeaderSize + 8 * tables.size());
  for (std::size_t i = 0; i < tables.size(); ++i) {
    store_le<std::uint64_t>(xsdt, kHeaderSize + 8 * i, tables[i]);
  }
  finish_table(xsdt);
  return xsdt;
}

// FADT revision 6.5 (ACPI 6.5, 5.2.9).
Table build_fadt(const AcpiPlatform& platform, Gpa dsdt) {
  constexpr std::uint32_t kWbinvd = 1u << 0;
  constexpr std::uint32_t kNoFixedPowerButton = 1u << 4;
  constexpr std::uint32_t kNoFixedSleepButton = 1u << 5;
  constexpr std::uint32_t kResetRegister = 1u << 10;
  constexpr std::uint32_t kHeadless = 1u << 12;
  constexpr std::uint32_t kHwReduced = 1u << 20;
  // No 8042 (bit 1 clear): Linux then does not wait for a keyboard controller.
  constexpr std::uint16_t kNoVga = 1u << 2;
  constexpr std::uint16_t kNoCmosRtc = 1u << 5;
  constexpr std::uint8_t kCenturyRegister = 0x32;

  Table fadt = make_table("FACP", 6, kFadtSize);
  store_le<std::uint32_t>(fadt, 40, static_cast<std::uint32_t>(dsdt));
  if (platform.rtc_port != 0) store_le<std::uint8_t>(fadt, 108, kCenturyRegister);
  store_le<std::uint16_t>(
      fadt, 109, platform.rtc_port != 0 ? kNoVga : static_cast<std::uint16_t>(kNoVga | kNoCmosRtc));
  store_le<std::uint32_t>(fadt, 112,
                          kWbinvd | kNoFixedPowerButton | kNoFixedSleepButton | kHeadless |
                              kHwReduced | (platform.reset_port != 0 ? kResetRegister : 0));
  if (platform.reset_port != 0) {
    put_port(fadt, 116, platform.reset_port);
    store_le<std::uint8_t>(fadt, 128, platform.reset_value);
  }
  store_le<std::uint8_t>(fadt, 131, 5);
  store_le<std::uint64_t>(fadt, 140, dsdt);
  if (platform.sleep_control_port != 0) {
    put_port(fadt, 244, platform.sleep_control_port);
    put_port(fadt, 256, platform.sleep_status_port);
  }
  put_text(fadt, 268, "KVITEST ");
  finish_table(fadt);
  return fadt;
}

// MADT (ACPI 6.5, 5.2.12): local APICs, the IOAPIC, NMI on LINT1.
Table build_madt(const AcpiPlatform& platform) {
  constexpr std::size_t kLocalApicSize = 8;
  constexpr std::size_t kIoApicSize = 12;
  constexpr std::size_t kLocalNmiSize = 6;
  Table madt = make_table("APIC", 5,
                          kMadtSize + kLocalApicSize * platform.cpus + kIoApicSize + kLocalNmiSize);
  store_le<std::uint32_t>(madt, 36, kLocalApicAddress);
  std::size_t at = kMadtSize;
  for (unsigned cpu = 0; cpu < platform.cpus; ++cpu, at += kLocalApicSize) {
    store_le<std::uint8_t>(madt, at, 0);
    store_le<std::uint8_t>(madt, at + 1, kLocalApicSize);
    store_le<std::uint8_t>(madt, at + 2, static_cast<std::uint8_t>(cpu));
    store_le<std::uint8_t>(madt, at + 3, static_cast<std::uint8_t>(cpu));
    store_le<std::uint32_t>(madt, at + 4, 1);  // enabled
  }
  store_le<std::uint8_t>(madt, at, 1);
  store_le<std::uint8_t>(madt, at + 1, kIoApicSize);
  store_le<std::uint32_t>(madt, at + 4, kIoApicAddress);
  at += kIoApicSize;
  store_le<std::uint8_t>(madt, at, 4);
  store_le<std::uint8_t>(madt, at + 1, kLocalNmiSize);
  store_le<std::uint8_t>(madt, at + 2, 0xff);  // every processor
  store_le<std::uint8_t>(madt, at + 5, 1);     // LINT1
  finish_table(madt);
  return madt;
}

aml::Bytes pci_routing(const AcpiPlatform& platform) {
  std::vector<aml::Bytes> routes;
  for (unsigned slot = 0; slot < platform.pci_slot_gsi.size(); ++slot) {
    if (platform.pci_slot_gsi[slot] == 0) continue;
    routes.push_back(aml::package({
        aml::integer(slot << 16 | 0xffff),  // every function
        aml::integer(0),                    // INTA#
        aml::integer(0),                    // no link device: a GSI follows
        aml::integer(platform.pci_slot_gsi[slot]),
    }));
  }
  return aml::name("_PRT", aml::package(routes));
}

std::string slot_name(std::uint8_t slot) {
  std::string name = "S";
  name += static_cast<char>('0' + slot / 10);
  name += static_cast<char>('0' + slot % 10);
  return name;
}

// Inside the host bridge: a device object with _EJ0 makes its slot one that Linux's acpiphp drives
// (ACPI 6.5, 6.3.3). The registers are those of platform/pci_hotplug.h.
aml::Bytes pci_hotplug_slots(const AcpiPlatform& platform) {
  if (platform.pci_hotplug_slots.empty()) return {};
  constexpr std::uint64_t kThere = 0xf;  // _STA: present, enabled, shown, functioning
  aml::Bytes all = aml::port_fields("HPRG", platform.pci_hotplug_port, {"HPEV", "HPPR", "HPEJ"});
  for (const std::uint8_t slot : platform.pci_hotplug_slots) {
    const std::uint64_t bit = std::uint64_t{1} << slot;
    all = aml::concat(
        {all,
         aml::device(
             slot_name(slot),
             {
                 aml::name("_ADR", aml::integer(std::uint64_t{slot} << 16)),
                 aml::name("_SUN", aml::integer(slot)),
                 aml::method("_STA", 0,
                             {aml::if_any_bit(aml::name_path("HPPR"), bit,
                                              {aml::return_value(aml::integer(kThere))}),
                              aml::return_value(aml::integer(0))}),
                 aml::method("_EJ0", 1, {aml::store(aml::integer(bit), aml::name_path("HPEJ"))}),
             })});
  }
  return all;
}

// A hardware-reduced machine has no GPE: a generic event device of its own tells of hotplug events
// (ACPI 6.5, 5.6.9). Eject requests go to the slots (notification 3), a device that vanished is
// found by a bus check of the host bridge (notification 0; 5.6.6).
aml::Bytes pci_hotplug_events(const AcpiPlatform& platform) {
  constexpr std::uint64_t kBusCheck = 0;
  constexpr std::uint64_t kEjectRequest = 3;
  const aml::Bytes events = aml::local(0);
  aml::Bytes code = aml::store(aml::name_path("\\_SB.PCI0.HPEV"), events);
  for (const std::uint8_t slot : platform.pci_hotplug_slots) {
    code = aml::concat(
        {code, aml::if_any_bit(events, std::uint64_t{1} << slot,
                               {aml::notify("\\_SB.PCI0." + slot_name(slot), kEjectRequest)})});
  }
  code = aml::concat({code, aml::if_any_bit(events, 1, {aml::notify("\\_SB.PCI0", kBusCheck)})});
  return aml::device(
      "GEDH",
      {
          aml::name("_HID", aml::string("ACPI0013")),
          aml::name("_UID", aml::integer(1)),
          aml::name("_CRS",
                    aml::resources({aml::interrupt(platform.pci_hotplug_gsi, aml::Trigger::Edge)})),
          aml::method(
              "_EVT", 1,
              {aml::if_equal(aml::argument(0), aml::integer(platform.pci_hotplug_gsi), {code})}),
      });
}

aml::Bytes pci_host_bridge(const AcpiPlatform& platform) {
  aml::Bytes windows = aml::concat({
      aml::bus_window(0, 0),
      aml::io_ports(platform.pci_config_port, 8),
      aml::memory32_window(static_cast<std::uint32_t>(platform.pci_mmio32_base),
                           static_cast<std::uint32_t>(platform.pci_mmio32_size)),
  });
  if (platform.pci_io_size != 0) {
    windows = aml::concat({windows, aml::io_window(platform.pci_io_base, platform.pci_io_size)});
  }
  if (platform.pci_mmio64_size != 0) {
    windows = aml::concat(
        {windows, aml::memory64_window(platform.pci_mmio64_base, platform.pci_mmio64_size)});
  }
  return aml::device("PCI0", {
                                 aml::name("_HID", aml::eisa_id("PNP0A03")),
                                 aml::name("_UID", aml::integer(0)),
                                 aml::name("_BBN", aml::integer(0)),
                                 aml::name("_CRS", aml::resources({windows})),
                                 pci_routing(platform),
                                 pci_hotplug_slots(platform),
                             });
}

aml::Bytes serial(const AcpiPlatform& platform) {
  return aml::device(
      "COM1", {
                  aml::name("_HID", aml::eisa_id("PNP0501")),
                  aml::name("_UID", aml::integer(1)),
                  aml::name("_CRS", aml::resources({
                                        aml::io_ports(platform.serial_port, 8),
                                        aml::interrupt(platform.serial_gsi, aml::Trigger::Edge),
                                    })),
              });
}

aml::Bytes rtc(const AcpiPlatform& platform) {
  return aml::device("RTC0",
                     {
                         aml::name("_HID", aml::eisa_id("PNP0B00")),
                         aml::name("_CRS", aml::resources({aml::io_ports(platform.rtc_port, 2)})),
                     });
}

aml::Bytes pvpanic(const AcpiPlatform& platform) {
  constexpr std::uint64_t kPresentEnabledHidden = 0xb;  // present, enabled, functioning; not shown
  return aml::device(
      "PEVT", {
                  aml::name("_HID", aml::string("QEMU0001")),
                  aml::name("_CRS", aml::resources({aml::io_ports(platform.pvpanic_port, 1)})),
                  aml::name("_STA", aml::integer(kPresentEnabledHidden)),
              });
}

// Virtual Machine Generation ID (Microsoft, 2012): ADDR gives the page, a notification 0x80 tells
// of a new id, and hardware-reduced machines raise it through a generic event device
// (ACPI 6.5, 5.6.9).
aml::Bytes vmgenid(const AcpiPlatform& platform) {
  const aml::Bytes generation = aml::device(
      "VGEN",
      {
          aml::name("_HID", aml::string("KVIT0001")),
          // Linux matches the first, other systems the second.
          aml::name("_CID", aml::package({aml::string("VMGENCTR"), aml::string("VM_Gen_Counter")})),
          aml::name("_DDN", aml::string("VM_Gen_Counter")),
          aml::name("ADDR", aml::package({
                                aml::integer(platform.vmgenid_page & 0xffff'ffff),
                                aml::integer(platform.vmgenid_page >> 32),
                            })),
      });
  const aml::Bytes events = aml::device(
      "GED", {
                 aml::name("_HID", aml::string("ACPI0013")),
                 aml::name("_UID", aml::integer(0)),
                 aml::name("_CRS", aml::resources(
                                       {aml::interrupt(platform.vmgenid_gsi, aml::Trigger::Edge)})),
                 aml::method("_EVT", 1,
                             {aml::if_equal(aml::argument(0), aml::integer(platform.vmgenid_gsi),
                                            {aml::notify("\\_SB.VGEN", 0x80)})}),
             });
  return aml::concat({generation, events});
}

// LNRO0005 is the name that Linux's virtio-mmio driver answers to.
aml::Bytes virtio_mmio(const std::vector<AcpiVirtioMmio>& all) {
  aml::Bytes devices;
  for (std::size_t i = 0; i < all.size(); ++i) {
    std::string path = "VR";
    path += static_cast<char>('0' + i / 10);
    path += static_cast<char>('0' + i % 10);
    devices = aml::concat(
        {devices,
         aml::device(path, {
                               aml::name("_HID", aml::string("LNRO0005")),
                               aml::name("_UID", aml::integer(i)),
                               aml::name("_CRS", aml::resources({
                                                     aml::memory32(all[i].base, all[i].size),
                                                     aml::interrupt(all[i].gsi, aml::Trigger::Pci),
                                                 })),
                           })});
  }
  return devices;
}

Table build_dsdt(const AcpiPlatform& platform) {
  aml::Bytes devices = pci_host_bridge(platform);
  if (platform.serial_port != 0) devices = aml::concat({devices, serial(platform)});
  if (platform.rtc_port != 0) devices = aml::concat({devices, rtc(platform)});
  if (platform.pvpanic_port != 0) devices = aml::concat({devices, pvpanic(platform)});
  if (platform.vmgenid_page != 0) devices = aml::concat({devices, vmgenid(platform)});
  if (!platform.pci_hotplug_slots.empty()) {
    devices = aml::concat({devices, pci_hotplug_events(platform)});
  }
  devices = aml::concat({devices, virtio_mmio(platform.virtio_mmio)});
  const aml::Bytes body = aml::concat({
      aml::scope("\\_SB", {devices}),
      aml::name("\\_S5", aml::package({aml::integer(kAcpiS5SleepType), aml::integer(0),
                                       aml::integer(0), aml::integer(0)})),
  });
  Table dsdt = make_table("DSDT", 6, kHeaderSize + body.size());
  std::ranges::copy(std::as_bytes(std::span(body)), dsdt.begin() + kHeaderSize);
  finish_table(dsdt);
  return dsdt;
}

}  // namespace

std::vector<AcpiTable> build_acpi(const AcpiPlatform& platform, Gpa base) {
  constexpr Gpa kAlignment = 16;
  std::vector<AcpiTable> tables;
  Gpa next = base + ((kRsdpSize + kAlignment - 1) & ~(kAlignment - 1));
  const auto add = [&](std::string_view signature, Table bytes) {
    const Gpa address = next;
    next = (next + bytes.size() + kAlignment - 1) & ~(kAlignment - 1);
    tables.push_back({std::string(signature), address, std::move(bytes)});
    return address;
  };
  const Gpa dsdt = add("DSDT", build_dsdt(platform));
  const std::array<Gpa, 2> listed{add("FACP", build_fadt(platform, dsdt)),
                                  add("APIC", build_madt(platform))};
  const Gpa xsdt = add("XSDT", build_xsdt(listed));
  tables.insert(tables.begin(), {"RSDP", base, build_rsdp(xsdt)});
  return tables;
}

Gpa write_acpi(GuestMemory& memory, const AcpiPlatform& platform) {
  const std::vector<AcpiTable> tables = build_acpi(platform, kAcpiBase);
  for (const AcpiTable& table : tables) {
    if (table.address + table.bytes.size() > kVmGenIdPage) {
      throw Error("write ACPI tables", EINVAL, "the tables are larger than their reserved area");
    }
    if (!memory.write(table.address, table.bytes)) {
      throw Error("write ACPI tables", ENOMEM, "the guest has less than 1 MiB of memory");
    }
  }
  return tables.front().address;
}

}  // namespace kvitest
