// Interrupt inputs that several devices drive: high while any of them asserts it.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <set>

#include "native/bus/interrupts.h"

namespace kvitest {

// Locks itself, and holds the lock over the controller's set_irq_line(), so that levels arrive in
// the order in which they were computed.
class SharedLines {
 public:
  explicit SharedLines(InterruptController& controller) : controller_(controller) {}

  // One device's connection; the lines must outlive it.
  class Source : public InterruptController {
   public:
    explicit Source(SharedLines& lines) : lines_(lines) {}
    ~Source() override;
    Source(const Source&) = delete;
    Source& operator=(const Source&) = delete;
    void set_irq_line(std::uint32_t gsi, bool level) override;
    void signal_msi(const MsiMessage& message) override;
    bool add_irqfd(int eventfd, const MsiMessage& message) override;
    void remove_irqfd(int eventfd) override;

   private:
    SharedLines& lines_;
  };

 private:
  InterruptController& controller_;
  std::mutex mutex_;
  std::map<std::uint32_t, std::set<const Source*>> asserted_;  // by GSI
};

}  // namespace kvitest
