#include "native/platform/pvpanic.h"

#include <doctest/doctest.h>

#include "native/platform/test_access.h"

namespace kvitest {
namespace {

TEST_CASE("pvpanic: reads name the supported events") {
  Pvpanic device([](std::uint8_t) {});

  CHECK(port_in(device, 0) == (kPvpanicPanicked | kPvpanicCrashLoaded));
}

TEST_CASE("pvpanic: writes report their supported bits") {
  std::vector<unsigned> events;
  Pvpanic device([&events](std::uint8_t event) { events.push_back(event); });

  port_out(device, 0, kPvpanicPanicked);
  port_out(device, 0, 0xfe);

  CHECK(events == std::vector<unsigned>{1, 2});
}

TEST_CASE("pvpanic: a write without a supported bit reports nothing") {
  int reports = 0;
  Pvpanic device([&reports](std::uint8_t) { ++reports; });

  port_out(device, 0, 0);
  port_out(device, 0, 0xf0);

  CHECK(reports == 0);
}

}  // namespace
}  // namespace kvitest
