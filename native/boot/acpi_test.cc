#include "native/boot/acpi.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <string_view>

#include "native/boot/aml.h"
#include "native/boot/layout.h"
#include "native/boot/test_payload.h"

namespace kvitest {
namespace {

AcpiPlatform sample_platform() {
  AcpiPlatform platform;
  platform.cpus = 3;
  platform.pci_config_port = 0xcf8;
  platform.pci_io_base = 0x1000;
  platform.pci_io_size = 0xf000;
  platform.pci_mmio32_base = 0xc000'0000;
  platform.pci_mmio32_size = 0x2000'0000;
  platform.pci_slot_gsi[1] = 17;
  platform.pci_slot_gsi[2] = 18;
  platform.serial_port = 0x3f8;
  platform.serial_gsi = 4;
  platform.rtc_port = 0x70;
  platform.sleep_control_port = 0x600;
  platform.sleep_status_port = 0x601;
  platform.reset_port = 0x602;
  platform.reset_value = 1;
  platform.pvpanic_port = 0x505;
  platform.vmgenid_page = kVmGenIdPage;
  platform.vmgenid_gsi = 5;
  return platform;
}

std::vector<std::byte> table(const AcpiPlatform& platform, std::string_view signature) {
  const std::vector<AcpiTable> tables = build_acpi(platform, kAcpiBase);
  return std::ranges::find(tables, signature, &AcpiTable::signature)->bytes;
}

unsigned byte_sum(std::span<const std::byte> bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), 0u, [](unsigned sum, std::byte b) {
    return (sum + std::to_integer<unsigned>(b)) & 0xff;
  });
}

bool contains(std::span<const std::byte> table_bytes, const aml::Bytes& part) {
  const auto wanted = std::as_bytes(std::span(part));
  return !std::ranges::search(table_bytes, wanted).empty();
}

TEST_CASE("acpi: the RSDP leads to the XSDT, and that to FADT, MADT and DSDT") {
  const std::vector<AcpiTable> tables = build_acpi(sample_platform(), kAcpiBase);

  const auto address_of = [&tables](std::string_view signature) {
    return std::ranges::find(tables, signature, &AcpiTable::signature)->address;
  };
  const std::vector<std::byte> xsdt = table(sample_platform(), "XSDT");
  const std::vector<std::byte> fadt = table(sample_platform(), "FACP");

  CHECK(tables.front().address == kAcpiBase);
  CHECK(load_le<std::uint64_t>(tables.front().bytes, 24) == address_of("XSDT"));
  CHECK(load_le<std::uint64_t>(xsdt, 36) == address_of("FACP"));
  CHECK(load_le<std::uint64_t>(xsdt, 44) == address_of("APIC"));
  CHECK(load_le<std::uint64_t>(fadt, 140) == address_of("DSDT"));
  CHECK(load_le<std::uint32_t>(fadt, 40) == address_of("DSDT"));
}

TEST_CASE("acpi: every checksum and every length is right") {
  const std::vector<AcpiTable> tables = build_acpi(sample_platform(), kAcpiBase);
  const std::span<const std::byte> rsdp = tables.front().bytes;

  CHECK(byte_sum(rsdp.first(20)) == 0);
  CHECK(byte_sum(rsdp) == 0);
  for (const AcpiTable& entry : std::span(tables).subspan(1)) {
    CHECK(byte_sum(entry.bytes) == 0);
    CHECK(load_le<std::uint32_t>(entry.bytes, 4) == entry.bytes.size());
  }
}

TEST_CASE("acpi: tables do not overlap") {
  std::vector<AcpiTable> tables = build_acpi(sample_platform(), kAcpiBase);
  std::ranges::sort(tables, {}, &AcpiTable::address);

  for (std::size_t i = 1; i < tables.size(); ++i) {
    CHECK(tables[i - 1].address + tables[i - 1].bytes.size() <= tables[i].address);
  }
}

TEST_CASE("acpi: the MADT lists every processor, the IOAPIC and the NMI input") {
  const std::vector<std::byte> madt = table(sample_platform(), "APIC");

  REQUIRE(madt.size() == 44 + 3 * 8 + 12 + 6);
  CHECK(load_le<std::uint32_t>(madt, 36) == 0xfee0'0000);
  CHECK(load_le<std::uint8_t>(madt, 44 + 8 + 3) == 1);
  CHECK(load_le<std::uint8_t>(madt, 44 + 16 + 3) == 2);
  CHECK(load_le<std::uint32_t>(madt, 44 + 16 + 4) == 1);
  CHECK(load_le<std::uint8_t>(madt, 68) == 1);
  CHECK(load_le<std::uint32_t>(madt, 72) == 0xfec0'0000);
  CHECK(load_le<std::uint8_t>(madt, 80) == 4);
}

TEST_CASE("acpi: the FADT is hardware-reduced with sleep and reset registers") {
  const std::vector<std::byte> fadt = table(sample_platform(), "FACP");

  REQUIRE(fadt.size() == 276);
  CHECK((load_le<std::uint32_t>(fadt, 112) & 1u << 20) != 0);
  CHECK((load_le<std::uint32_t>(fadt, 112) & 1u << 10) != 0);
  CHECK(load_le<std::uint64_t>(fadt, 120) == 0x602);
  CHECK(load_le<std::uint8_t>(fadt, 128) == 1);
  CHECK(load_le<std::uint64_t>(fadt, 248) == 0x600);
  CHECK(load_le<std::uint64_t>(fadt, 260) == 0x601);
}

TEST_CASE("acpi: the FADT says that there is no keyboard controller and no VGA, but an RTC") {
  const auto boot_flags = load_le<std::uint16_t>(table(sample_platform(), "FACP"), 109);

  CHECK((boot_flags & 1u << 1) == 0);
  CHECK((boot_flags & 1u << 2) != 0);
  CHECK((boot_flags & 1u << 5) == 0);
}

TEST_CASE("acpi: the DSDT names the devices that are there") {
  const std::vector<std::byte> dsdt = table(sample_platform(), "DSDT");

  CHECK(contains(dsdt, aml::name("_HID", aml::eisa_id("PNP0A03"))));
  CHECK(contains(dsdt, aml::name("_HID", aml::eisa_id("PNP0501"))));
  CHECK(contains(dsdt, aml::name("_HID", aml::eisa_id("PNP0B00"))));
  CHECK(contains(dsdt, aml::name("_HID", aml::string("QEMU0001"))));
  CHECK(contains(dsdt, aml::string("VMGENCTR")));
  CHECK(contains(dsdt, aml::memory32_window(0xc000'0000, 0x2000'0000)));
  CHECK(contains(dsdt, aml::package({aml::integer(0x2'ffff), aml::integer(0), aml::integer(0),
                                     aml::integer(18)})));
}

TEST_CASE("acpi: the DSDT does not name the devices that are absent") {
  AcpiPlatform platform = sample_platform();
  platform.serial_port = 0;
  platform.rtc_port = 0;
  platform.pvpanic_port = 0;
  platform.vmgenid_page = 0;

  const std::vector<std::byte> dsdt = table(platform, "DSDT");

  CHECK_FALSE(contains(dsdt, aml::eisa_id("PNP0501")));
  CHECK_FALSE(contains(dsdt, aml::eisa_id("PNP0B00")));
  CHECK_FALSE(contains(dsdt, aml::string("QEMU0001")));
  CHECK_FALSE(contains(dsdt, aml::string("VMGENCTR")));
  CHECK((load_le<std::uint16_t>(table(platform, "FACP"), 109) & 1u << 5) != 0);
}

TEST_CASE("acpi: each virtio-mmio device has its registers and a shared interrupt") {
  AcpiPlatform platform = sample_platform();
  CHECK_FALSE(contains(table(platform, "DSDT"), aml::string("LNRO0005")));
  platform.virtio_mmio = {{.base = 0xe000'0000, .size = 0x1000, .gsi = 17},
                          {.base = 0xe000'b000, .size = 0x1000, .gsi = 20}};
  const std::vector<std::byte> dsdt = table(platform, "DSDT");
  CHECK(contains(dsdt, aml::name("_HID", aml::string("LNRO0005"))));
  for (const AcpiVirtioMmio& one : platform.virtio_mmio) {
    CHECK(contains(dsdt, aml::resources({aml::memory32(one.base, one.size),
                                         aml::interrupt(one.gsi, aml::Trigger::Pci)})));
  }
  CHECK(contains(dsdt, aml::concat({aml::name_path("VR01")})));
}

TEST_CASE("acpi: the tables land in the reserved area") {
  GuestMemory memory(1 << 20);

  const Gpa rsdp = write_acpi(memory, sample_platform());

  CHECK(rsdp == kAcpiBase);
  CHECK(memory.load<std::uint64_t>(rsdp) == 0x2052'5450'2044'5352);  // "RSD PTR "
}

TEST_CASE("acpi: a guest without the reserved area is refused") {
  GuestMemory memory(64 * 1024);

  CHECK(error_of([&] { write_acpi(memory, sample_platform()); }).find("less than 1 MiB") !=
        std::string::npos);
}

}  // namespace
}  // namespace kvitest
