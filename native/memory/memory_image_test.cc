#include "native/memory/memory_image.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "native/error.h"
#include "native/memory/guest_memory.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;

// RAM of 8 MiB whose pages 1 and 3 hold their number.
std::shared_ptr<const MemoryImage> sample() {
  GuestMemory memory(8 * kMiB);
  REQUIRE(memory.store<std::uint64_t>(1 * kPageSize, 1));
  REQUIRE(memory.store<std::uint64_t>(3 * kPageSize, 3));
  REQUIRE(memory.store<std::uint64_t>(5 * kPageSize, 0));  // there, and zero
  return memory.image();
}

std::uint64_t value(const GuestMemory& memory, std::uint64_t page) {
  return memory.load<std::uint64_t>(page * kPageSize).value();
}

std::vector<std::uint32_t> numbers(std::span<const std::uint32_t> pages) {
  return {pages.begin(), pages.end()};
}

TEST_CASE("memory image: it holds the pages that are not zero, and no others") {
  const auto image = sample();

  CHECK(image->size() == 8 * kMiB);
  CHECK(numbers(image->base_pages()) == std::vector<std::uint32_t>{1, 3});
  CHECK(image->bytes_held() == 2 * kPageSize);
}

TEST_CASE("memory image: RAM on huge pages too") {
  GuestMemory memory(64 * kMiB);
  REQUIRE(memory.store<std::uint64_t>(32 * kMiB, 7));
  const auto image = memory.image();
  const GuestMemory copy(image);

  CHECK(image->bytes_held() == kPageSize);
  CHECK(copy.load<std::uint64_t>(32 * kMiB) == 7);
}

TEST_CASE("memory image: nobody can change it") {
  const auto image = sample();
  const char byte = 1;

  CHECK(::pwrite(image->fd(), &byte, 1, 0) < 0);
  CHECK(::ftruncate(image->fd(), 0) < 0);
  CHECK(::mmap(nullptr, kPageSize, PROT_WRITE, MAP_SHARED, image->fd(), 0) == MAP_FAILED);
  CHECK((::fcntl(image->fd(), F_GET_SEALS) & F_SEAL_SEAL) != 0);
}

TEST_CASE("memory image: copies see it, and neither each other's writes nor the first one's") {
  const auto image = sample();
  GuestMemory a(image);
  GuestMemory b(image);

  CHECK(a.store<std::uint64_t>(kPageSize, 100));
  CHECK(b.store<std::uint64_t>(2 * kPageSize, 200));

  CHECK(value(a, 1) == 100);
  CHECK(value(a, 2) == 0);
  CHECK(value(a, 3) == 3);
  CHECK(value(b, 1) == 1);
  CHECK(value(b, 2) == 200);
}

TEST_CASE("memory image: reading makes no page private, each write one") {
  GuestMemory copy(sample());

  for (std::uint64_t page = 0; page < 8; ++page) (void)value(copy, page);
  CHECK(copy.private_pages() == 0);
  CHECK(copy.store<std::uint64_t>(0, 1));
  CHECK(copy.store<std::uint64_t>(8, 1));
  CHECK(copy.store<std::uint64_t>(3 * kPageSize, 1));

  CHECK(copy.private_pages() == 2);
}

TEST_CASE("memory image: restoring takes back exactly the pages that were written") {
  GuestMemory copy(sample());
  CHECK(copy.fill(0, std::byte{0xff}, 3 * kPageSize));
  CHECK(copy.store<std::uint64_t>(7 * kPageSize, 7));

  CHECK(copy.restore() == 4);

  CHECK(value(copy, 0) == 0);
  CHECK(value(copy, 1) == 1);
  CHECK(value(copy, 2) == 0);
  CHECK(value(copy, 3) == 3);
  CHECK(value(copy, 7) == 0);
}

TEST_CASE("memory image: many written pages are given back to the host") {
  GuestMemory memory(64 * kMiB);
  REQUIRE(memory.fill(0, std::byte{0x11}, 32 * kMiB));
  GuestMemory copy(memory.image());
  CHECK(copy.fill(0, std::byte{0x22}, 20 * kMiB));

  CHECK(copy.restore() == 20 * kMiB / kPageSize);

  CHECK(copy.private_pages() == 0);
  CHECK(copy.load<std::uint8_t>(0) == 0x11);
  CHECK(copy.load<std::uint8_t>(20 * kMiB - 1) == 0x11);
}

TEST_CASE("memory image: RAM that was booted has nothing to go back to") {
  GuestMemory memory(kMiB);

  CHECK_THROWS_AS(memory.restore(), Error);
}

TEST_CASE("memory image: of a copy, it shares the memfd and holds what differs, zeros too") {
  GuestMemory memory(8 * kMiB);
  REQUIRE(memory.fill(0, std::byte{0x11}, kMiB));
  const auto first = memory.image();
  GuestMemory copy(first);
  CHECK(copy.fill(kPageSize, std::byte{0}, kPageSize));
  CHECK(copy.store<std::uint64_t>(7 * kMiB, 7));

  const auto second = copy.image();
  GuestMemory of_copy(second);

  CHECK(second->fd() == first->fd());
  CHECK(numbers(second->delta_pages()) == std::vector<std::uint32_t>{1, 7 * kMiB / kPageSize});
  CHECK(of_copy.load<std::uint8_t>(0) == 0x11);
  CHECK(of_copy.load<std::uint8_t>(kPageSize) == 0);
  CHECK(of_copy.load<std::uint64_t>(7 * kMiB) == 7);

  // Its restore knows of them.
  CHECK(of_copy.fill(0, std::byte{0x33}, 3 * kPageSize));
  of_copy.restore();
  CHECK(of_copy.load<std::uint8_t>(0) == 0x11);
  CHECK(of_copy.load<std::uint8_t>(kPageSize) == 0);
  CHECK(of_copy.load<std::uint64_t>(7 * kMiB) == 7);
}

TEST_CASE("memory image: one that differs much from its base stands alone") {
  const auto first = sample();
  GuestMemory copy(first);
  CHECK(copy.store<std::uint64_t>(kPageSize, 9));
  CHECK(copy.fill(3 * kPageSize, std::byte{0}, kPageSize));
  CHECK(copy.store<std::uint64_t>(8 * kPageSize, 8));

  const auto second = copy.image();

  CHECK(second->fd() != first->fd());
  CHECK(second->delta_pages().empty());
  CHECK(numbers(second->base_pages()) == std::vector<std::uint32_t>{1, 8});
}

TEST_CASE("memory image: without address space for a copy there is one clear error") {
  const auto image = sample();
  std::ifstream statm("/proc/self/statm");
  std::uint64_t pages = 0;
  statm >> pages;
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_AS, &before) == 0);
  const rlimit low{pages * kPageSize + kMiB, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_AS, &low) == 0);

  std::string error;
  try {
    const GuestMemory copy(image);
  } catch (const Error& e) {
    error = e.what();
  }
  ::setrlimit(RLIMIT_AS, &before);

  CHECK(error ==
        "mmap: guest RAM of 8 MiB for a fork (Cannot allocate memory); have fewer guests at once, "
        "or raise vm.max_map_count");
  CHECK(value(GuestMemory(image), 1) == 1);
}

TEST_CASE("memory image: pages are read across base and delta") {
  GuestMemory memory(8 * kMiB);
  REQUIRE(memory.fill(0, std::byte{0x11}, kMiB));
  GuestMemory copy(memory.image());
  CHECK(copy.fill(2 * kPageSize, std::byte{0x22}, kPageSize));
  const auto image = copy.image();
  std::vector<std::byte> bytes(4 * kPageSize);

  image->read(0, 4, bytes);

  CHECK(bytes[2 * kPageSize - 1] == std::byte{0x11});
  CHECK(bytes[2 * kPageSize] == std::byte{0x22});
  CHECK(bytes[3 * kPageSize] == std::byte{0x11});
  CHECK(image->pages().size() == kMiB / kPageSize);
}

std::uint64_t at(std::uint64_t page) {
  return page * kPageSize;
}

TEST_CASE("empty runs: a fork's own, from its image's zeros and back to them") {
  constexpr std::uint64_t kUsed = 5000;  // between two runs of huge pages with nothing in them
  GuestMemory memory(64 * kMiB);
  REQUIRE(memory.store(at(kUsed), std::uint64_t{7}));
  const auto image = memory.image();
  GuestMemory fork(image);

  for (int round = 0; round < 2; ++round) {
    CHECK(value(fork, 600) == 0);
    REQUIRE(fork.store(at(600), std::uint64_t{1}));
    REQUIRE(fork.store(at(9000), std::uint64_t{2}));
    REQUIRE(fork.store(at(9001), std::uint64_t{3}));
    REQUIRE(fork.store(at(9001), std::uint64_t{0}));
    REQUIRE(fork.store(at(kUsed), std::uint64_t{4}));
    REQUIRE(fork.store(at(kUsed + 1), std::uint64_t{5}));  // in a huge page that is not empty

    const auto second = fork.image();
    CHECK(second->pages() == std::vector<std::uint32_t>{600, kUsed, kUsed + 1, 9000});
    GuestMemory grandchild(second);
    CHECK(value(grandchild, 600) == 1);
    CHECK(value(grandchild, kUsed) == 4);
    CHECK(value(grandchild, 9000) == 2);
    CHECK(value(grandchild, 9001) == 0);
    REQUIRE(grandchild.store(at(600), std::uint64_t{9}));
    REQUIRE(grandchild.store(at(700), std::uint64_t{9}));
    grandchild.restore();
    CHECK(value(grandchild, 600) == 1);
    CHECK(value(grandchild, 700) == 0);

    fork.restore();
    CHECK(value(fork, 600) == 0);
    CHECK(value(fork, kUsed) == 7);
    CHECK(value(fork, kUsed + 1) == 0);
    CHECK(value(fork, 9000) == 0);
    CHECK(fork.private_pages() <= 2);
  }
  CHECK(value(GuestMemory(image), 600) == 0);
}

TEST_CASE("empty runs: discards in them and across their ends") {
  constexpr std::uint64_t kUsed = 5000;
  GuestMemory memory(64 * kMiB);
  REQUIRE(memory.store(at(kUsed), std::uint64_t{7}));
  GuestMemory fork(memory.image());

  for (int round = 0; round < 2; ++round) {
    for (const std::uint64_t page : {600, 601, 4600, 5000, 5001, 6000}) {
      REQUIRE(fork.store(at(page), page));
    }
    REQUIRE(fork.discard(at(601), kPageSize));
    CHECK(value(fork, 600) == 600);
    CHECK(value(fork, 601) == 0);
    REQUIRE(fork.discard(at(4000), 2000 * kPageSize));
    for (const std::uint64_t page : {4600, 5000, 5001}) CHECK(value(fork, page) == 0);
    CHECK(value(fork, 6000) == 6000);
    const auto image = fork.image();
    CHECK(value(GuestMemory(image), kUsed) == 0);
    CHECK(value(GuestMemory(image), 6000) == 6000);
    fork.restore();
    CHECK(value(fork, 600) == 0);
    CHECK(value(fork, kUsed) == 7);
    CHECK(value(fork, 6000) == 0);
  }
}

TEST_CASE("discard: RAM that was booted reads zeros and is no longer held") {
  GuestMemory memory(8 * kMiB);
  for (std::uint64_t page = 0; page < 64; ++page) REQUIRE(memory.store(at(page), page + 1));
  REQUIRE(memory.private_pages() == 64);

  CHECK(memory.discard(at(8), 16 * kPageSize));

  CHECK(memory.private_pages() == 48);
  CHECK(value(memory, 7) == 8);
  CHECK(value(memory, 8) == 0);
  CHECK(value(memory, 23) == 0);
  CHECK(value(memory, 24) == 25);
}

TEST_CASE("discard: RAM on huge pages too") {
  GuestMemory memory(64 * kMiB);
  REQUIRE(memory.store(32 * kMiB, std::uint64_t{7}));
  REQUIRE(memory.store(32 * kMiB + kPageSize, std::uint64_t{8}));

  CHECK(memory.discard(32 * kMiB, kPageSize));
  CHECK(memory.load<std::uint64_t>(32 * kMiB) == 0);
  CHECK(memory.load<std::uint64_t>(32 * kMiB + kPageSize) == 8);
  CHECK(memory.discard(32 * kMiB, 2 * kMiB));

  CHECK(memory.private_pages() == 0);
}

TEST_CASE("discard: what is no whole page of RAM is refused, and nothing happens") {
  GuestMemory memory(kMiB);
  REQUIRE(memory.store(0, std::uint64_t{1}));
  REQUIRE(memory.store(kMiB - 8, std::uint64_t{2}));

  CHECK_FALSE(memory.discard(8, kPageSize));
  CHECK_FALSE(memory.discard(0, 100));
  CHECK_FALSE(memory.discard(kMiB - kPageSize, 2 * kPageSize));
  CHECK_FALSE(memory.discard(kMiB, kPageSize));
  CHECK_FALSE(memory.discard(~std::uint64_t{0} - kPageSize + 1, 2 * kPageSize));
  CHECK(memory.discard(0, 0));

  CHECK(value(memory, 0) == 1);
  CHECK(memory.load<std::uint64_t>(kMiB - 8) == 2);
}

TEST_CASE("discard: a fork's page reads zeros, not what the image has there; others keep theirs") {
  const auto image = sample();
  GuestMemory a(image);
  GuestMemory b(image);
  REQUIRE(a.store(at(1), std::uint64_t{100}));  // over the image's 1
  REQUIRE(a.store(at(2), std::uint64_t{200}));  // over nothing
  REQUIRE(a.private_pages() == 2);

  CHECK(a.discard(at(1), kPageSize));
  CHECK(a.discard(at(2), kPageSize));
  CHECK(a.discard(at(3), kPageSize));  // still the image's

  CHECK(a.private_pages() == 0);
  CHECK(value(a, 1) == 0);
  CHECK(value(a, 2) == 0);
  CHECK(value(a, 3) == 0);
  CHECK(value(b, 1) == 1);
  CHECK(value(b, 3) == 3);
  CHECK(value(GuestMemory(image), 1) == 1);
  // Discarded once more after the guest wrote to it.
  REQUIRE(a.store(at(1), std::uint64_t{101}));
  CHECK(value(a, 1) == 101);
  CHECK(a.discard(at(1), kPageSize));
  CHECK(value(a, 1) == 0);
}

TEST_CASE("discard: an image of a fork has zeros there, as delta and as image of its own") {
  // A large base makes a delta of the fork's image, a small one an image of its own.
  for (const std::uint64_t base_pages : {4, 400}) {
    CAPTURE(base_pages);
    GuestMemory memory(8 * kMiB);
    for (std::uint64_t page = 0; page < base_pages; ++page) {
      REQUIRE(memory.store(at(page), page + 1));
    }
    GuestMemory fork(memory.image());
    REQUIRE(fork.store(at(0), std::uint64_t{100}));
    REQUIRE(fork.discard(at(1), 2 * kPageSize));

    const auto image = fork.image();
    GuestMemory grandchild(image);

    CHECK(image->delta_pages().empty() == (base_pages == 4));
    CHECK(value(grandchild, 0) == 100);
    CHECK(value(grandchild, 1) == 0);
    CHECK(value(grandchild, 2) == 0);
    CHECK(value(grandchild, 3) == 4);
  }
}

TEST_CASE("discard: a fork that is restored has the image's content again, the delta's too") {
  GuestMemory memory(8 * kMiB);
  for (std::uint64_t page = 0; page < 400; ++page) REQUIRE(memory.store(at(page), page + 1));
  GuestMemory first(memory.image());
  REQUIRE(first.store(at(1), std::uint64_t{100}));    // in the delta, over the base
  REQUIRE(first.store(at(500), std::uint64_t{500}));  // in the delta, over nothing
  GuestMemory fork(first.image());

  for (int round = 0; round < 3; ++round) {
    REQUIRE(fork.discard(at(0), 3 * kPageSize));
    REQUIRE(fork.discard(at(500), kPageSize));
    REQUIRE(fork.store(at(2), std::uint64_t{7}));
    CHECK(value(fork, 1) == 0);
    CHECK(value(fork, 500) == 0);
    fork.restore();

    CHECK(value(fork, 0) == 1);
    CHECK(value(fork, 1) == 100);
    CHECK(value(fork, 2) == 3);
    CHECK(value(fork, 500) == 500);
  }
}

TEST_CASE("discard: runs that meet are one, and a fork in too many pieces keeps what it has") {
  constexpr std::uint64_t kPages = 8192;
  GuestMemory memory(kPages * kPageSize);
  for (std::uint64_t page = 0; page < kPages; ++page) REQUIRE(memory.store(at(page), page + 1));
  GuestMemory fork(memory.image());
  // Neighbours, upwards and downwards.
  for (std::uint64_t page = 0; page < 1500; ++page) REQUIRE(fork.discard(at(page), kPageSize));
  for (std::uint64_t page = 3000; page > 1500; --page) {
    REQUIRE(fork.discard(at(page - 1), kPageSize));
  }
  CHECK(value(fork, 0) == 0);
  CHECK(value(fork, 2999) == 0);
  // Every other one: more than there may be.
  for (std::uint64_t page = 3001; page < kPages; page += 2) {
    REQUIRE(fork.discard(at(page), kPageSize));
  }
  CHECK(value(fork, 3001) == 0);
  CHECK(value(fork, kPages - 1) == kPages);
  CHECK(value(fork, 3000) == 3001);
  // Across all of them it still gives back what it can.
  REQUIRE(fork.store(at(1), std::uint64_t{5}));
  REQUIRE(fork.discard(0, kPages * kPageSize));
  CHECK(value(fork, 1) == 0);
  fork.restore();
  CHECK(value(fork, 1) == 2);
  CHECK(value(fork, 3001) == 3002);
}

}  // namespace
}  // namespace kvitest
