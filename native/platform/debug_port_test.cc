#include "native/platform/debug_port.h"

#include <doctest/doctest.h>

#include <string>

#include "native/platform/test_access.h"

namespace kvitest {
namespace {

TEST_CASE("debug port: bytes come out in the order they were written") {
  std::string output;
  DebugPort port([&output](std::span<const std::byte> data) {
    output.append(reinterpret_cast<const char*>(data.data()), data.size());
  });

  port_out(port, 0, 'o');
  port_out<std::uint16_t>(port, 0, 'k' | '!' << 8);

  CHECK(output == "ok!");
}

TEST_CASE("debug port: a read tells that it is there") {
  DebugPort port([](std::span<const std::byte>) {});

  CHECK(port_in(port, 0) == 0xe9);
}

}  // namespace
}  // namespace kvitest
