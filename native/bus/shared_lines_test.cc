#include "native/bus/shared_lines.h"

#include <doctest/doctest.h>

#include <map>
#include <memory>

#include "native/bus/test_irqfds.h"

namespace kvitest {
namespace {

class Inputs : public InterruptController {
 public:
  void set_irq_line(std::uint32_t gsi, bool level) override { levels[gsi] = level; }
  void signal_msi(const MsiMessage& message) override { last_data = message.data; }
  std::map<std::uint32_t, bool> levels;
  std::uint32_t last_data = 0;
};

TEST_CASE("shared lines: an input is high while any device asserts it") {
  Inputs inputs;
  SharedLines lines(inputs);
  SharedLines::Source first(lines);
  SharedLines::Source second(lines);

  first.set_irq_line(17, true);
  second.set_irq_line(17, true);
  first.set_irq_line(17, false);
  CHECK(inputs.levels[17]);
  second.set_irq_line(17, false);
  CHECK_FALSE(inputs.levels[17]);
}

TEST_CASE("shared lines: a device says its level twice without counting twice") {
  Inputs inputs;
  SharedLines lines(inputs);
  SharedLines::Source source(lines);

  source.set_irq_line(17, true);
  source.set_irq_line(17, true);
  source.set_irq_line(17, false);
  CHECK_FALSE(inputs.levels[17]);
}

TEST_CASE("shared lines: other inputs and messages pass by") {
  Inputs inputs;
  SharedLines lines(inputs);
  SharedLines::Source first(lines);
  SharedLines::Source second(lines);

  first.set_irq_line(16, true);
  second.set_irq_line(17, false);
  second.signal_msi({0xfee0'0000, 0x42});
  CHECK(inputs.levels == std::map<std::uint32_t, bool>{{16, true}, {17, false}});
  CHECK(inputs.last_data == 0x42);
}

TEST_CASE("shared lines: a device that went away asserts nothing any more") {
  Inputs inputs;
  SharedLines lines(inputs);
  SharedLines::Source stays(lines);
  auto goes = std::make_unique<SharedLines::Source>(lines);
  goes->set_irq_line(17, true);

  goes.reset();
  stays.set_irq_line(17, false);
  CHECK_FALSE(inputs.levels[17]);
}

TEST_CASE("shared lines: a device's irqfds are the controller's") {
  TestIrqfds controller;
  SharedLines lines(controller);
  SharedLines::Source source(lines);

  CHECK(source.add_irqfd(7, {0xfee0'0000, 0x41}));
  CHECK(controller.there == TestIrqfds::There{{7, 0x41}});
  source.remove_irqfd(7);
  CHECK(controller.there.empty());
  controller.refuses = true;
  CHECK_FALSE(source.add_irqfd(7, {0xfee0'0000, 0x41}));
}

}  // namespace
}  // namespace kvitest
