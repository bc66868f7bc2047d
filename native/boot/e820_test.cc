#include "native/boot/e820.h"

#include <doctest/doctest.h>

#include "native/boot/layout.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

TEST_CASE("e820: a small guest has conventional memory, the BIOS area and the rest") {
  const GuestMemory memory(128 * kMiB);

  const std::vector<E820Entry> map = e820_map(memory);

  REQUIRE(map.size() == 3);
  CHECK(map[0].base == 0);
  CHECK(map[0].size == kConventionalEnd);
  CHECK(map[0].type == kE820Ram);
  CHECK(map[1].base == kConventionalEnd);
  CHECK(map[1].base + map[1].size == kMiB);
  CHECK(map[1].type == kE820Reserved);
  CHECK(map[2].base == kMiB);
  CHECK(map[2].base + map[2].size == 128 * kMiB);
  CHECK(map[2].type == kE820Ram);
}

TEST_CASE("e820: RAM beyond the hole is above 4 GiB") {
  const GuestMemory memory(4096 * kMiB);

  const std::vector<E820Entry> map = e820_map(memory);

  REQUIRE(map.size() == 4);
  CHECK(map[2].base + map[2].size == kLowRamLimit);
  CHECK(map[3].base == kHighRamBase);
  CHECK(map[3].size == 4096 * kMiB - kLowRamLimit);
}

TEST_CASE("e820: a guest of 1 MiB has nothing above it") {
  const GuestMemory memory(kMiB);

  CHECK(e820_map(memory).size() == 2);
}

}  // namespace
}  // namespace kvitest
