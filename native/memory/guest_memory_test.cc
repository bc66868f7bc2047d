#include "native/memory/guest_memory.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <limits>

#include "native/error.h"
#include "native/unique_fd.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

TEST_CASE("guest memory: a size that is no multiple of a page is refused") {
  CHECK_THROWS_AS(GuestMemory(4097), Error);
  CHECK_THROWS_AS(GuestMemory(0), Error);
}

TEST_CASE("guest memory: a size no host has is refused with its errno") {
  CHECK_THROWS_AS(GuestMemory(kMax & ~(kPageSize - 1)), Error);
}

TEST_CASE("guest memory: what is written is read back, up to the last byte") {
  GuestMemory memory(kMiB);
  const std::array in{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  std::array<std::byte, 4> out{};

  CHECK(memory.write(kMiB - 4, in));
  CHECK(memory.read(kMiB - 4, out));

  CHECK(out == in);
}

TEST_CASE("guest memory: a range one byte past the end is refused and nothing is copied") {
  GuestMemory memory(kMiB);
  const std::array in{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};

  CHECK_FALSE(memory.write(kMiB - 3, in));

  CHECK(memory.load<std::uint8_t>(kMiB - 1) == 0);
}

TEST_CASE("guest memory: ranges that wrap around 2^64 are refused") {
  GuestMemory memory(kMiB);
  std::array<std::byte, 16> out{};

  CHECK_FALSE(memory.read(kMax - 7, out));
  CHECK_FALSE(memory.contains(kMax, 1));
  CHECK_FALSE(memory.contains(1, kMax));
  CHECK_FALSE(memory.contains(kMiB, kMax - kMiB + 1));
  CHECK_FALSE(memory.fill(kMax - 7, std::byte{0xff}, 16));
}

TEST_CASE("guest memory: what is lent is RAM up to the last byte, and nothing beyond it") {
  GuestMemory memory(kMiB);
  const auto lent = memory.lend(kMiB - 4, 4);
  REQUIRE(lent.has_value());
  CHECK(lent->iov_base == static_cast<std::byte*>(memory.regions()[0].host) + kMiB - 4);
  CHECK(lent->iov_len == 4);
  CHECK_FALSE(memory.lend(kMiB - 4, 5).has_value());
  CHECK_FALSE(memory.lend(kMiB, 1).has_value());
  CHECK_FALSE(memory.lend(kMax - 7, 16).has_value());
}

TEST_CASE("guest memory: an empty range is contained at the end of RAM and not beyond it") {
  GuestMemory memory(kMiB);

  CHECK(memory.contains(kMiB, 0));
  CHECK_FALSE(memory.contains(kMiB + 1, 0));
}

TEST_CASE("guest memory: no bytes at all are read and written, from nowhere too") {
  GuestMemory memory(kPageSize);
  CHECK(memory.read(0, {}));
  CHECK(memory.write(0, {}));
  CHECK_FALSE(memory.read(kPageSize + 1, {}));
}

TEST_CASE("guest memory: RAM above the low limit continues at 4 GiB") {
  GuestMemory memory(kLowRamLimit + kMiB);

  CHECK(memory.regions().size() == 2);
  CHECK(memory.regions()[0].size == kLowRamLimit);
  CHECK(memory.regions()[1].base == kHighRamBase);
  CHECK(memory.regions()[1].size == kMiB);
  CHECK(memory.size() == kLowRamLimit + kMiB);
}

TEST_CASE("guest memory: the hole below 4 GiB is not RAM, and no range straddles it") {
  GuestMemory memory(kLowRamLimit + kMiB);

  CHECK_FALSE(memory.contains(kLowRamLimit, 1));
  CHECK_FALSE(memory.contains(kLowRamLimit - 1, 2));
  CHECK_FALSE(memory.contains(kHighRamBase - 1, 2));
  CHECK_FALSE(memory.contains(kLowRamLimit - 1, kHighRamBase - kLowRamLimit + 2));
  CHECK(memory.contains(kLowRamLimit - 1, 1));
  CHECK(memory.contains(kHighRamBase, kMiB));
}

TEST_CASE("guest memory: the two regions are different bytes") {
  GuestMemory memory(kLowRamLimit + kMiB);

  CHECK(memory.store<std::uint64_t>(kLowRamLimit - 8, 1));
  CHECK(memory.store<std::uint64_t>(kHighRamBase, 2));

  CHECK(memory.load<std::uint64_t>(kLowRamLimit - 8) == 1);
  CHECK(memory.load<std::uint64_t>(kHighRamBase) == 2);
}

TEST_CASE("guest memory: misaligned loads and stores are refused") {
  GuestMemory memory(kMiB);

  CHECK(memory.load<std::uint16_t>(1) == std::nullopt);
  CHECK(memory.load<std::uint32_t>(2) == std::nullopt);
  CHECK(memory.load<std::uint64_t>(4) == std::nullopt);
  CHECK_FALSE(memory.store<std::uint64_t>(4, 1));
  CHECK(memory.load<std::uint64_t>(0) == 0);
}

TEST_CASE("guest memory: fill sets exactly its range") {
  GuestMemory memory(kMiB);

  CHECK(memory.fill(16, std::byte{0xab}, 8));

  CHECK(memory.load<std::uint64_t>(8) == 0);
  CHECK(memory.load<std::uint64_t>(16) == 0xabab'abab'abab'ababULL);
  CHECK(memory.load<std::uint64_t>(24) == 0);
}

TEST_CASE("guest memory: a file is read into RAM, a short one is an error") {
  char path[] = "/tmp/kvitest-memory-XXXXXX";
  UniqueFd fd(::mkstemp(path));
  ::unlink(path);
  REQUIRE(::pwrite(fd.get(), "0123456789", 10, 0) == 10);
  GuestMemory memory(kMiB);

  CHECK(memory.read_from_fd(64, fd.get(), 2, 8));
  CHECK_FALSE(memory.read_from_fd(kMiB - 4, fd.get(), 0, 8));
  CHECK_THROWS_AS((void)memory.read_from_fd(128, fd.get(), 4, 8), Error);

  CHECK(memory.load<std::uint8_t>(64) == '2');
  CHECK(memory.load<std::uint8_t>(71) == '9');
}

}  // namespace
}  // namespace kvitest
