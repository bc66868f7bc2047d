#include "native/boot/long_mode.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>

#include "native/boot/layout.h"
#include "native/boot/test_payload.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kAddressBits = 0x000f'ffff'ffff'f000;

// What the processor would do: walks the four levels as far as a 2 MiB page.
std::uint64_t walk(const GuestMemory& memory, Gpa root, std::uint64_t address) {
  const auto pml4 = memory.load<std::uint64_t>(root + 8 * (address >> 39 & 511)).value();
  const auto pdpt =
      memory.load<std::uint64_t>((pml4 & kAddressBits) + 8 * (address >> 30 & 511)).value();
  return memory.load<std::uint64_t>((pdpt & kAddressBits) + 8 * (address >> 21 & 511)).value();
}

std::uint64_t gdt_entry(const GuestMemory& memory, std::uint16_t selector) {
  return memory.load<std::uint64_t>(kGdtBase + (selector & ~7u)).value();
}

TEST_CASE("long mode: the low 4 GiB are mapped to themselves") {
  GuestMemory memory(2 * kMiB);

  const SpecialRegisters registers = enter_long_mode(memory, 0);

  CHECK(walk(memory, registers.cr3, 0) == (0x0 | 0x83));
  CHECK(walk(memory, registers.cr3, 0x1234'5678) == (0x1220'0000 | 0x83));
  CHECK(walk(memory, registers.cr3, 0xffff'ffff) == (0xffe0'0000 | 0x83));
}

TEST_CASE("long mode: ring 3 gets user pages, user segments and their descriptors") {
  GuestMemory memory(2 * kMiB);

  const SpecialRegisters registers = enter_long_mode(memory, 3);

  CHECK(walk(memory, registers.cr3, kMiB) == (0x0 | 0x87));
  CHECK(registers.cs.selector == 0x2b);
  CHECK(registers.cs.dpl == 3);
  CHECK(registers.ss.selector == 0x23);
  CHECK(registers.ss.dpl == 3);
  CHECK(gdt_entry(memory, kSelectorUserCode) == 0x00af'fb00'0000'ffff);
  CHECK(gdt_entry(memory, kSelectorUserData) == 0x00cf'f300'0000'ffff);
}

TEST_CASE("long mode: ring 0 has Linux's selectors and matching descriptors") {
  GuestMemory memory(2 * kMiB);

  const SpecialRegisters registers = enter_long_mode(memory, 0);

  CHECK(registers.cs.selector == 0x10);
  CHECK(registers.cs.l == 1);
  CHECK(registers.cs.db == 0);
  CHECK(registers.ds.selector == 0x18);
  CHECK(registers.gdt.base == kGdtBase);
  CHECK(registers.gdt.limit == 63);
  CHECK(registers.idt.limit == 0);
  CHECK(gdt_entry(memory, 0) == 0);
  CHECK(gdt_entry(memory, kSelectorCode) == 0x00af'9b00'0000'ffff);
  CHECK(gdt_entry(memory, kSelectorData) == 0x00cf'9300'0000'ffff);
}

TEST_CASE("long mode: the task register and its descriptor name one TSS") {
  GuestMemory memory(2 * kMiB);

  const SpecialRegisters registers = enter_long_mode(memory, 3);

  CHECK(registers.tr.base == kTssBase);
  CHECK(registers.tr.limit == 0x2068);
  CHECK(gdt_entry(memory, kSelectorTss) == 0x0000'8b01'0000'2068);
}

TEST_CASE("long mode: the I/O permission bitmap allows every port and ends with ones") {
  GuestMemory memory(2 * kMiB);

  enter_long_mode(memory, 3);

  const auto bitmap = kTssBase + memory.load<std::uint16_t>(kTssBase + 0x66).value();
  std::array<std::byte, 0x2000> bits;
  REQUIRE(memory.read(bitmap, bits));
  CHECK(std::ranges::count(bits, std::byte{0}) == 0x2000);
  CHECK(memory.load<std::uint8_t>(bitmap + 0x2000) == 0xff);
  CHECK(bitmap + 0x2000 == kTssBase + 0x2068);
}

TEST_CASE("long mode: paging and long mode are on") {
  GuestMemory memory(2 * kMiB);

  const SpecialRegisters registers = enter_long_mode(memory, 0);

  CHECK((registers.cr0 & 0x8000'0001) == 0x8000'0001);
  CHECK((registers.cr4 & 0x20) == 0x20);
  CHECK((registers.efer & 0x500) == 0x500);
}

TEST_CASE("long mode: a guest without its first MiB is refused") {
  GuestMemory memory(kMiB - kPageSize);

  CHECK(error_of([&] { enter_long_mode(memory, 0); }).find("less than 1 MiB") != std::string::npos);
}

TEST_CASE("protected mode: 32 bits, flat, no paging") {
  const SpecialRegisters registers = protected_mode();

  CHECK(registers.cr0 == 0x11);
  CHECK(registers.cr4 == 0);
  CHECK(registers.efer == 0);
  CHECK(registers.cs.db == 1);
  CHECK(registers.cs.l == 0);
  CHECK(registers.cs.limit == 0xffff'ffff);
  CHECK(registers.tr.limit == 0x67);
}

}  // namespace
}  // namespace kvitest
