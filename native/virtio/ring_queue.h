// What split and packed queues are made of alike.
#pragma once

#include <cstdint>
#include <optional>

#include "native/virtio/queue.h"

namespace kvitest {

inline constexpr std::uint16_t kMaxQueueSize = 32768;
// Of a position in a packed ring, as a QueueState keeps it (2.8.10).
inline constexpr std::uint16_t kWrapCounter = 0x8000;

class RingQueue : public VirtQueue {
 public:
  RingQueue(GuestMemory& memory, const QueueLayout& layout, const QueueFeatures& features,
            VirtioInterrupts& interrupts, const QueueState& state)
      : memory_(memory),
        layout_(layout),
        features_(features),
        state_(state),
        interrupts_(interrupts) {}

  std::uint16_t size() const override { return layout_.size; }
  QueueFault fault() const override { return state_.fault; }
  QueueState state() const override { return state_; }

 protected:
  // Breaks the queue; only its first fault counts and is reported.
  std::nullopt_t fail(QueueFault fault) {
    if (state_.fault == QueueFault::kNone) {
      state_.fault = fault;
      interrupts_.needs_reset();
    }
    return std::nullopt;
  }

  GuestMemory& memory_;
  const QueueLayout layout_;
  const QueueFeatures features_;
  QueueState state_;

 private:
  VirtioInterrupts& interrupts_;
};

}  // namespace kvitest
