// What split and packed queues are made of alike.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

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
  const QueueLayout& layout() const override { return layout_; }
  QueueFault fault() const override { return state_.fault; }
  QueueState state() const override { return state_; }
  void move_to(const QueueState& state) override { state_ = state; }

  void push_used(std::span<const UsedBuffer> together) override {
    if (state_.fault != QueueFault::kNone) return;
    for (const UsedBuffer& one : together) add(one);
    if (!features_.in_order) flush_used();
  }

 protected:
  // What is written to the ring for a buffer, or for several of a batch: the last one's.
  struct UsedElement {
    std::uint16_t id;
    std::uint32_t length;
    std::uint16_t buffers;
    std::uint32_t slots;  // of a packed ring
    bool complete;
  };
  // Several are visible to the driver at once.
  virtual void store_used(std::span<const UsedElement> elements) = 0;

  void flush_used() {
    if (unseen_.empty()) return;
    store_used(unseen_);
    unseen_.clear();
  }

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
  void add(const UsedBuffer& one) {
    const DescriptorChain& chain = *one.chain;
    UsedElement next{chain.head(), one.length, 1, chain.slots(), chain.used_completely()};
    if (features_.in_order && !unseen_.empty() && unseen_.back().complete) {
      next.buffers = static_cast<std::uint16_t>(next.buffers + unseen_.back().buffers);
      next.slots += unseen_.back().slots;
      unseen_.back() = next;
    } else {
      unseen_.push_back(next);
    }
  }

  VirtioInterrupts& interrupts_;
  std::vector<UsedElement> unseen_;  // empty but for IN_ORDER between push_used() and the interrupt
};

}  // namespace kvitest
