#include "native/boot/initramfs.h"

#include <doctest/doctest.h>

#include "native/boot/layout.h"
#include "native/boot/test_payload.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
constexpr Gpa kNoLimit = kHighRamBase;

TEST_CASE("initramfs: no path, no initramfs") {
  GuestMemory memory(2 * kMiB);

  CHECK(load_initramfs(memory, "", kMiB, kNoLimit).size == 0);
}

TEST_CASE("initramfs: it lies page aligned at the end of memory") {
  const TemporaryFile file(FileBytes(5000, std::byte{0x5a}));
  GuestMemory memory(4 * kMiB);

  const LoadedInitramfs loaded = load_initramfs(memory, file.path(), kMiB, kNoLimit);

  CHECK(loaded.base == 4 * kMiB - 8192);
  CHECK(loaded.size == 5000);
  CHECK(memory.load<std::uint8_t>(loaded.base) == 0x5a);
  CHECK(memory.load<std::uint8_t>(loaded.base + 4999) == 0x5a);
}

TEST_CASE("initramfs: it stays below the kernel's limit and below the hole") {
  const TemporaryFile file(FileBytes(4096));
  GuestMemory memory(5ull << 30);

  CHECK(load_initramfs(memory, file.path(), kMiB, 0x8000'0000).base == 0x8000'0000 - 4096);
  CHECK(load_initramfs(memory, file.path(), kMiB, kNoLimit).base == kLowRamLimit - 4096);
}

TEST_CASE("initramfs: one that just fits beside the kernel is loaded") {
  const TemporaryFile file{FileBytes(kMiB)};
  GuestMemory memory(3 * kMiB);

  CHECK(load_initramfs(memory, file.path(), 2 * kMiB, kNoLimit).base == 2 * kMiB);
}

TEST_CASE("initramfs: one that does not fit is refused with both sizes") {
  const TemporaryFile file{FileBytes(kMiB + 1)};
  GuestMemory memory(3 * kMiB);

  const std::string message =
      error_of([&] { load_initramfs(memory, file.path(), 2 * kMiB, kNoLimit); });

  CHECK(message == "load initramfs: " + file.path() +
                       ": initramfs of 1 MiB does not fit in 3 MiB of memory beside the kernel, "
                       "which ends at 2 MiB; give the guest more memory or make the initramfs "
                       "smaller");
}

TEST_CASE("initramfs: a kernel that ends behind low memory leaves no room") {
  const TemporaryFile file(FileBytes(1));
  GuestMemory memory(2 * kMiB);

  CHECK(error_of([&] {
          load_initramfs(memory, file.path(), 3 * kMiB, kNoLimit);
        }).find("does not fit") != std::string::npos);
}

TEST_CASE("initramfs: an empty file is refused") {
  const TemporaryFile file(FileBytes{});
  GuestMemory memory(2 * kMiB);

  CHECK(error_of([&] {
          load_initramfs(memory, file.path(), kMiB, kNoLimit);
        }).find("the file is empty") != std::string::npos);
}

}  // namespace
}  // namespace kvitest
