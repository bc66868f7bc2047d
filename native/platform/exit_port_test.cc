#include "native/platform/exit_port.h"

#include <doctest/doctest.h>

#include "native/platform/test_access.h"

namespace kvitest {
namespace {

TEST_CASE("exit port: the code is what was written, whatever the width") {
  std::vector<std::uint32_t> codes;
  TestExit port([&codes](std::uint32_t code) { codes.push_back(code); });

  port_out<std::uint8_t>(port, 0, 0xff);
  port_out<std::uint16_t>(port, 0, 0x1234);
  port_out<std::uint32_t>(port, 0, 0xdead'beef);

  CHECK(codes == std::vector<std::uint32_t>{0xff, 0x1234, 0xdead'beef});
}

TEST_CASE("exit port: the other ports do nothing, and reads are zeros") {
  int exits = 0;
  TestExit port([&exits](std::uint32_t) { ++exits; });

  port_out(port, 1, 1);

  CHECK(exits == 0);
  CHECK(port_in<std::uint32_t>(port, 0) == 0);
}

}  // namespace
}  // namespace kvitest
