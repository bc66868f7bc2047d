#include "native/boot/load.h"

#include <doctest/doctest.h>

#include "native/boot/layout.h"
#include "native/boot/test_payload.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
// Offsets in the zero page (Linux zero-page.rst).
constexpr Gpa kRsdpField = kZeroPage + 0x70;
constexpr Gpa kE820CountField = kZeroPage + 0x1e8;
constexpr Gpa kLoaderField = kZeroPage + 0x210;
constexpr Gpa kRamdiskField = kZeroPage + 0x218;
constexpr Gpa kCmdlineField = kZeroPage + 0x228;
constexpr Gpa kE820Field = kZeroPage + 0x2d0;

AcpiPlatform small_platform() {
  AcpiPlatform platform;
  platform.pci_config_port = 0xcf8;
  platform.pci_mmio32_base = kLowRamLimit;
  platform.pci_mmio32_size = kMiB;
  return platform;
}

// Field by field: structures in guest memory need not be aligned.
template <typename T>
T guest_field(const GuestMemory& memory, Gpa gpa) {
  std::array<std::byte, sizeof(T)> bytes{};
  REQUIRE(memory.read(gpa, bytes));
  return load_le<T>(bytes, 0);
}

std::string guest_text(const GuestMemory& memory, Gpa gpa, std::size_t length) {
  std::string text(length, '\0');
  REQUIRE(memory.read(gpa, std::as_writable_bytes(std::span(text))));
  return text;
}

TEST_CASE("load linux: a bzImage starts at its 64-bit entry with RSI at the zero page") {
  const TemporaryFile kernel(make_bzimage());
  GuestMemory memory(8 * kMiB);

  const BootState state = load_linux(memory, {kernel.path(), "", "quiet"}, small_platform());

  CHECK(state.general.rip == kTestKernelBase + 0x200);
  CHECK(state.general.rsi == kZeroPage);
  CHECK(state.general.rflags == 2);
  CHECK(state.special.cs.selector == 0x10);
  CHECK(state.special.cs.l == 1);
}

TEST_CASE("load linux: the zero page names initramfs, command line, RSDP and memory") {
  const TemporaryFile kernel(make_bzimage());
  const TemporaryFile initramfs(FileBytes(100, std::byte{1}));
  GuestMemory memory(8 * kMiB);

  load_linux(memory, {kernel.path(), initramfs.path(), "console=ttyS0"}, small_platform());

  CHECK(guest_field<std::uint8_t>(memory, kLoaderField) == 0xff);
  CHECK(guest_field<std::uint32_t>(memory, kRamdiskField) == 8 * kMiB - 4096);
  CHECK(guest_field<std::uint32_t>(memory, kRamdiskField + 4) == 100);
  CHECK(guest_field<std::uint64_t>(memory, kRsdpField) == kAcpiBase);
  CHECK(guest_field<std::uint32_t>(memory, kCmdlineField) == kCmdline);
  CHECK(guest_text(memory, kCmdline, 14) == std::string("console=ttyS0\0", 14));
  CHECK(guest_field<std::uint8_t>(memory, kE820CountField) == 3);
  CHECK(guest_field<std::uint64_t>(memory, kE820Field + 40) == kMiB);
  CHECK(guest_field<std::uint64_t>(memory, kE820Field + 48) == 7 * kMiB);
  CHECK(guest_field<std::uint32_t>(memory, kE820Field + 56) == 1);
}

TEST_CASE("load linux: an initramfs never overlaps what the kernel needs to start") {
  const TemporaryFile kernel(make_bzimage());
  const TemporaryFile initramfs{FileBytes(kMiB)};
  GuestMemory memory(3 * kMiB + kMiB / 2);

  const std::string message = error_of([&] {
    load_linux(memory, {kernel.path(), initramfs.path(), ""}, small_platform());
  });

  CHECK(message.find("initramfs of 1 MiB does not fit in 3.5 MiB of memory") != std::string::npos);
}

TEST_CASE("load linux: a vmlinux starts at its PVH entry with EBX at the start info") {
  const TemporaryFile kernel(make_elf(0, {TestSegment{}, pvh_note(0x10'0008)}));
  const TemporaryFile initramfs(FileBytes(100));
  GuestMemory memory(8 * kMiB);

  const BootState state =
      load_linux(memory, {kernel.path(), initramfs.path(), "quiet"}, small_platform());

  const Gpa info = state.general.rbx;
  CHECK(state.general.rip == 0x10'0008);
  CHECK(state.special.cr0 == 0x11);
  CHECK(guest_field<std::uint32_t>(memory, info) == 0x336e'c578);
  CHECK(guest_field<std::uint32_t>(memory, info + 4) == 1);
  CHECK(guest_field<std::uint32_t>(memory, info + 12) == 1);
  CHECK(guest_field<std::uint64_t>(memory, info + 24) == kCmdline);
  CHECK(guest_field<std::uint64_t>(memory, info + 32) == kAcpiBase);
  CHECK(guest_field<std::uint32_t>(memory, info + 48) == 3);
  const auto modules = guest_field<std::uint64_t>(memory, info + 16);
  CHECK(guest_field<std::uint64_t>(memory, modules) == 8 * kMiB - 4096);
  CHECK(guest_field<std::uint64_t>(memory, modules + 8) == 100);
  const auto map = guest_field<std::uint64_t>(memory, info + 40);
  CHECK(guest_field<std::uint64_t>(memory, map + 48) == kMiB);
  CHECK(guest_field<std::uint64_t>(memory, map + 56) == 7 * kMiB);
}

TEST_CASE("load linux: without initramfs the PVH start info has no module") {
  const TemporaryFile kernel(make_elf(0, {TestSegment{}, pvh_note(0x10'0008)}));
  GuestMemory memory(8 * kMiB);

  const BootState state = load_linux(memory, {kernel.path(), "", ""}, small_platform());

  CHECK(guest_field<std::uint32_t>(memory, state.general.rbx + 12) == 0);
  CHECK(guest_field<std::uint64_t>(memory, state.general.rbx + 16) == 0);
}

TEST_CASE("load linux: a vmlinux without a PVH note is refused") {
  const TemporaryFile kernel(make_elf(0x10'0000, {TestSegment{}}));
  GuestMemory memory(8 * kMiB);

  CHECK(error_of([&] {
          load_linux(memory, {kernel.path(), "", ""}, small_platform());
        }) ==
        "load kernel: " + kernel.path() +
            ": the vmlinux has no PVH entry note; build it with CONFIG_PVH=y or give its bzImage");
}

TEST_CASE("load linux: a PVH entry outside the kernel is refused") {
  const TemporaryFile kernel(make_elf(0, {TestSegment{}, pvh_note(0x20'0000)}));
  GuestMemory memory(8 * kMiB);

  CHECK(error_of([&] {
          load_linux(memory, {kernel.path(), "", ""}, small_platform());
        }).find("lies outside every segment") != std::string::npos);
}

TEST_CASE("load linux: the longest command line fits, one more character does not") {
  const TemporaryFile kernel(make_bzimage());
  GuestMemory memory(8 * kMiB);

  load_linux(memory, {kernel.path(), "", std::string(2047, 'x')}, small_platform());
  const std::string message = error_of([&] {
    load_linux(memory, {kernel.path(), "", std::string(2048, 'x')}, small_platform());
  });

  CHECK(message.find("has 2048 characters, the kernel takes 2047; shorten it") !=
        std::string::npos);
}

TEST_CASE("load linux: a command line with a NUL is refused") {
  const TemporaryFile kernel(make_bzimage());
  GuestMemory memory(8 * kMiB);

  CHECK(error_of([&] {
          load_linux(memory, {kernel.path(), "", std::string("a\0b", 3)}, small_platform());
        }).find("NUL") != std::string::npos);
}

TEST_CASE("load bare: it starts at its entry with a stack and the size of its memory") {
  const TemporaryFile elf(make_elf(0x10'0004, {TestSegment{}}));
  GuestMemory memory(2 * kMiB);

  const BootState state = load_bare(memory, elf.path(), 0);

  CHECK(state.general.rip == 0x10'0004);
  CHECK(state.general.rsp == kBareStackTop);
  CHECK(state.general.rsp % 16 == 0);
  CHECK(state.general.rdi == 2 * kMiB);
  CHECK(state.general.rflags == 2);
  CHECK(memory.load<std::uint8_t>(kMiB) == 0xcc);
}

TEST_CASE("load bare: ring 3 may use ports") {
  const TemporaryFile elf(make_elf(0x10'0000, {TestSegment{}}));
  GuestMemory memory(2 * kMiB);

  const BootState state = load_bare(memory, elf.path(), 3);

  CHECK(state.general.rflags == (2 | 3 << 12));
  CHECK((state.special.cs.selector & 3) == 3);
}

TEST_CASE("load bare: other rings and entries outside the program are refused") {
  const TemporaryFile good(make_elf(0x10'0000, {TestSegment{}}));
  const TemporaryFile outside(make_elf(0x20'0000, {TestSegment{}}));
  GuestMemory memory(2 * kMiB);

  CHECK(error_of([&] { load_bare(memory, good.path(), 1); }).find("ask for ring 0 or 3") !=
        std::string::npos);
  CHECK(error_of([&] {
          load_bare(memory, outside.path(), 0);
        }).find("entry point lies outside every segment") != std::string::npos);
}

}  // namespace
}  // namespace kvitest
