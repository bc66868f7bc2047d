#include "native/platform/vmgenid.h"

#include <doctest/doctest.h>

#include <array>

#include "native/boot/layout.h"
#include "native/error.h"
#include "native/platform/test_access.h"

namespace kvitest {
namespace {

using Id = std::array<std::byte, 16>;

Id id_of(const GuestMemory& memory) {
  Id id{};
  REQUIRE(memory.read(kVmGenIdPage, id));
  return id;
}

TEST_CASE("vmgenid: the first id is there without an interrupt") {
  GuestMemory memory(1 << 20);
  RecordingInterrupts interrupts;
  VmGenId vmgenid(memory, interrupts, kVmGenIdPage, 5);

  vmgenid.initialize();

  CHECK(id_of(memory) != Id{});
  CHECK(interrupts.changes().empty());
}

TEST_CASE("vmgenid: a new id comes with one edge of its interrupt") {
  GuestMemory memory(1 << 20);
  RecordingInterrupts interrupts;
  VmGenId vmgenid(memory, interrupts, kVmGenIdPage, 5);
  vmgenid.initialize();
  const Id id{std::byte{1}, std::byte{2}, std::byte{3}};

  vmgenid.renew(id);

  CHECK(id_of(memory) == id);
  CHECK(interrupts.changes() == std::vector<std::pair<std::uint32_t, bool>>{{5, true}, {5, false}});
}

TEST_CASE("vmgenid: a page outside memory is an error") {
  GuestMemory memory(4096);
  RecordingInterrupts interrupts;
  VmGenId vmgenid(memory, interrupts, kVmGenIdPage, 5);

  CHECK_THROWS_AS(vmgenid.initialize(), Error);
}

}  // namespace
}  // namespace kvitest
