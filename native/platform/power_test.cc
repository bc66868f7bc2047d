#include "native/platform/power.h"

#include <doctest/doctest.h>

#include "native/boot/acpi.h"
#include "native/platform/test_access.h"

namespace kvitest {
namespace {

constexpr std::uint8_t kSleepEnable = 1 << 5;

struct Machine {
  int power_offs = 0;
  int resets = 0;
  Power power{{[this] { ++power_offs; }, [this] { ++resets; }}};
};

TEST_CASE("power: the sleep type of S5 with the enable bit powers off") {
  Machine machine;

  port_out(machine.power, kSleepControlOffset, kAcpiS5SleepType << 2 | kSleepEnable);

  CHECK(machine.power_offs == 1);
  CHECK(machine.resets == 0);
}

TEST_CASE("power: without the enable bit, or with another sleep type, nothing happens") {
  Machine machine;

  port_out(machine.power, kSleepControlOffset, kAcpiS5SleepType << 2);
  port_out(machine.power, kSleepControlOffset, 3 << 2 | kSleepEnable);

  CHECK(machine.power_offs == 0);
}

TEST_CASE("power: the reset register resets on its own value only") {
  Machine machine;

  port_out(machine.power, kResetOffset, 0);
  CHECK(machine.resets == 0);
  port_out(machine.power, kResetOffset, kResetValue);

  CHECK(machine.resets == 1);
  CHECK(machine.power_offs == 0);
}

TEST_CASE("power: clearing the wake status is harmless and it stays clear") {
  Machine machine;

  port_out(machine.power, kSleepStatusOffset, 0x80);

  CHECK(port_in(machine.power, kSleepStatusOffset) == 0);
  CHECK(machine.power_offs + machine.resets == 0);
}

TEST_CASE("power: wide accesses do nothing") {
  Machine machine;

  port_out<std::uint16_t>(machine.power, kSleepControlOffset, 0x0134);

  CHECK(machine.power_offs + machine.resets == 0);
}

}  // namespace
}  // namespace kvitest
