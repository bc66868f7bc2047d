// An interrupt controller that has irqfds, for tests.
#pragma once

#include <cstdint>
#include <map>

#include "native/bus/interrupts.h"

namespace kvitest {

struct TestIrqfds : InterruptController {
  void set_irq_line(std::uint32_t, bool) override {}
  void signal_msi(const MsiMessage&) override {}
  bool add_irqfd(int eventfd, const MsiMessage& message) override {
    if (refuses) return false;
    there[eventfd] = message.data;
    return true;
  }
  void remove_irqfd(int eventfd) override { there.erase(eventfd); }

  using There = std::map<int, std::uint32_t>;
  There there;  // data of the message, by eventfd
  bool refuses = false;
};

}  // namespace kvitest
