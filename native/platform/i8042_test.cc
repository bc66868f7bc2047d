#include "native/platform/i8042.h"

#include <doctest/doctest.h>

#include "native/platform/test_access.h"
#include "native/state/test_checkpoint.h"

namespace kvitest {
namespace {

TEST_CASE("i8042: command 0xfe resets the machine") {
  int resets = 0;
  I8042 controller([&resets] { ++resets; });

  port_out(controller, 4, 0xfe);

  CHECK(resets == 1);
}

TEST_CASE("i8042: other commands and the data port do not") {
  int resets = 0;
  I8042 controller([&resets] { ++resets; });

  port_out(controller, 4, 0xaa);
  port_out(controller, 4, 0xff);  // pulses no line
  port_out(controller, 0, 0xfe);
  port_out<std::uint16_t>(controller, 4, 0xfefe);

  CHECK(resets == 0);
}

TEST_CASE("i8042: a sender need not wait, a flush never empties the buffer") {
  I8042 controller([] {});

  const std::uint8_t status = port_in(controller, 4);

  CHECK((status & 0x02) == 0);
  CHECK((status & 0x01) == 1);
}

TEST_CASE("i8042: port 0x61 names no NMI cause, keeps the speaker bits and shows timer 2 expired") {
  I8042 controller([] {});

  port_out(controller, 1, 0xff);

  CHECK(port_in(controller, 1) == 0x2f);
}

TEST_CASE("i8042: an I/O channel check is named to as many handlers as were asked for") {
  I8042 controller([] {});

  controller.raise_io_check(2);

  CHECK((port_in(controller, 1) & 0xc0) == 0x40);
  for (const int expected : {0x40, 0}) {
    // What Linux does: disable the check, wait, enable it again.
    port_out(controller, 1, 0x08);
    CHECK((port_in(controller, 1) & 0xc0) == 0);
    port_out(controller, 1, 0x00);
    CHECK((port_in(controller, 1) & 0xc0) == expected);
  }
}

TEST_CASE("i8042 checkpoint: port 0x61 is kept") {
  I8042 controller([] {});
  port_out(controller, 1, 0x03);

  I8042 fork([] {});
  load(fork, saved(controller));

  CHECK(port_in(fork, 1) == port_in(controller, 1));
  CHECK((port_in(fork, 1) & 0x0f) == 0x03);
}

TEST_CASE("i8042 checkpoint: another version and an impossible register are refused") {
  I8042 controller([] {});
  std::vector<std::byte> bytes = saved(controller);
  CHECK(refusal(controller, with_version(bytes, "i8042", 2)).find("version 2") !=
        std::string::npos);
  bytes.back() = std::byte{0xff};
  CHECK(refusal(controller, bytes).find("a register that cannot be") != std::string::npos);
}

}  // namespace
}  // namespace kvitest
