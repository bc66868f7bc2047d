#include "native/boot/msrs.h"

#include <doctest/doctest.h>

#include <algorithm>

namespace kvitest {
namespace {

TEST_CASE("msrs: memory is write-back by default, not uncacheable") {
  const std::vector<MsrEntry> msrs = boot_msrs();

  CHECK(std::ranges::find(msrs, 0x2ffu, &MsrEntry::index)->value == 0x806);
}

TEST_CASE("msrs: each register is set once") {
  std::vector<MsrEntry> msrs = boot_msrs();
  std::ranges::sort(msrs, {}, &MsrEntry::index);

  CHECK(std::ranges::adjacent_find(msrs, {}, &MsrEntry::index) == msrs.end());
}

}  // namespace
}  // namespace kvitest
