// Split virtqueues (virtio 1.3, 2.7).
#include <atomic>
#include <bit>
#include <utility>

#include "native/little_endian.h"
#include "native/virtio/ring_queue.h"
#include "native/virtio/segments.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kRingHeader = 4;  // flags and idx
constexpr std::uint16_t kAvailableNoInterrupt = 1;

struct Descriptor {
  Gpa address;
  std::uint32_t length;
  std::uint16_t flags;
  std::uint16_t next;
};

std::optional<Descriptor> read_descriptor(const GuestMemory& memory, Gpa table,
                                          std::uint32_t index) {
  std::byte raw[kDescriptorSize];
  if (!memory.read(table + index * kDescriptorSize, raw)) return std::nullopt;
  const std::span<const std::byte> bytes(raw);
  return Descriptor{read_le(bytes.subspan(0, 8)),
                    static_cast<std::uint32_t>(read_le(bytes.subspan(8, 4))),
                    static_cast<std::uint16_t>(read_le(bytes.subspan(12, 2))),
                    static_cast<std::uint16_t>(read_le(bytes.subspan(14, 2)))};
}

// Collects the buffers of one chain.
class ChainWalk {
 public:
  ChainWalk(const GuestMemory& memory, bool indirect_negotiated)
      : memory_(memory), indirect_negotiated_(indirect_negotiated), segments_(memory) {}

  QueueFault walk(Gpa table, std::uint32_t count, std::uint32_t index, bool in_indirect = false) {
    for (std::uint32_t steps = 0; steps < count; ++steps) {
      const auto descriptor = read_descriptor(memory_, table, index);
      if (!descriptor) return QueueFault::kRingOutsideMemory;
      if ((descriptor->flags & kDescriptorIndirect) != 0) {
        return in_indirect ? QueueFault::kIndirectNested : walk_indirect(*descriptor);
      }
      const QueueFault fault = segments_.add(descriptor->address, descriptor->length,
                                             (descriptor->flags & kDescriptorWrite) != 0);
      if (fault != QueueFault::kNone) return fault;
      if ((descriptor->flags & kDescriptorNext) == 0) return QueueFault::kNone;
      if (descriptor->next >= count) return QueueFault::kNextOutOfRange;
      index = descriptor->next;
    }
    // More steps than the table has entries: the chain loops.
    return QueueFault::kChainTooLong;
  }

  SegmentList& segments() { return segments_; }

 private:
  QueueFault walk_indirect(const Descriptor& descriptor) {
    if (!indirect_negotiated_) return QueueFault::kIndirectNotNegotiated;
    // 2.7.5.3.1: NEXT together with INDIRECT is forbidden, so an indirect table ends its chain.
    if ((descriptor.flags & kDescriptorNext) != 0) return QueueFault::kIndirectNested;
    std::uint32_t count = 0;
    const QueueFault fault = segments_.check_table(descriptor.address, descriptor.length, count);
    return fault == QueueFault::kNone ? walk(descriptor.address, count, 0, true) : fault;
  }

  const GuestMemory& memory_;
  bool indirect_negotiated_;
  SegmentList segments_;
};

class SplitQueue : public RingQueue {
 public:
  using RingQueue::RingQueue;

  std::optional<DescriptorChain> pop() override {
    const std::uint16_t waiting = available();
    if (waiting == 0 && !arm_and_look_again()) return std::nullopt;
    if (state_.fault != QueueFault::kNone) return std::nullopt;

    const Gpa entry =
        layout_.driver + kRingHeader + std::uint64_t{2} * (state_.next % layout_.size);
    const auto head = memory_.load<std::uint16_t>(entry);
    if (!head) return fail(QueueFault::kRingOutsideMemory);
    std::optional<DescriptorChain> chain = walk(*head);
    if (chain) ++state_.next;
    return chain;
  }

  std::optional<DescriptorChain> retake(const ChainState& saved) override {
    if (state_.fault != QueueFault::kNone) return std::nullopt;
    std::optional<DescriptorChain> chain = walk(saved.head);
    if (chain) chain->skip(saved.read);
    return chain;
  }

  std::uint16_t available() override {
    if (state_.fault != QueueFault::kNone) return 0;
    const auto index = memory_.load<std::uint16_t>(layout_.driver + 2);
    if (!index) {
      fail(QueueFault::kRingOutsideMemory);
      return 0;
    }
    const auto waiting = static_cast<std::uint16_t>(*index - state_.next);
    if (waiting > layout_.size) {
      fail(QueueFault::kAvailableIndexJumped);
      return 0;
    }
    return waiting;
  }

  bool needs_interrupt() override {
    flush_used();
    if (state_.fault != QueueFault::kNone || state_.used == state_.announced) return false;
    // The driver publishes its wish, then looks at the used index; we publish the used index, then
    // look at its wish. Without a full fence both could miss the other (2.7.7.2).
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const std::uint16_t before = std::exchange(state_.announced, state_.used);
    if (!features_.event_index) {
      const auto flags = memory_.load<std::uint16_t>(layout_.driver);
      return flags && (*flags & kAvailableNoInterrupt) == 0;
    }
    const auto event =
        memory_.load<std::uint16_t>(layout_.driver + kRingHeader + std::uint64_t{2} * layout_.size);
    if (!event) return false;
    // True when used_event lies in [before, state_.used), modulo 2^16.
    return static_cast<std::uint16_t>(state_.used - *event - 1) <
           static_cast<std::uint16_t>(state_.used - before);
  }

  void request_notification() override {
    if (state_.fault != QueueFault::kNone || !features_.event_index) return;
    const auto waiting = static_cast<std::uint16_t>(state_.next + available());
    publish_avail_event(waiting);
  }

 private:
  void store_used(std::span<const UsedElement> elements) override {
    std::uint16_t used = state_.used;
    bool stored = true;
    for (const UsedElement& one : elements) {
      const Gpa entry = layout_.device + kRingHeader + std::uint64_t{8} * (used % layout_.size);
      stored = stored && memory_.store<std::uint32_t>(entry, one.id) &&
               memory_.store<std::uint32_t>(entry + 4, one.length);
      used = static_cast<std::uint16_t>(used + one.buffers);
    }
    // The elements before the index: the store of the index releases them.
    if (!stored || !memory_.store<std::uint16_t>(layout_.device + 2, used)) {
      fail(QueueFault::kRingOutsideMemory);
      return;
    }
    state_.used = used;
  }

  void publish_avail_event(std::uint16_t index) {
    const Gpa event = layout_.device + kRingHeader + std::uint64_t{8} * layout_.size;
    if (!memory_.store<std::uint16_t>(event, index)) fail(QueueFault::kRingOutsideMemory);
  }

  // Asks for a notification about the next request, then looks whether one came in between.
  bool arm_and_look_again() {
    if (state_.fault != QueueFault::kNone) return false;
    // Without the event index, flags stay 0: the driver always notifies.
    if (!features_.event_index) return false;
    publish_avail_event(state_.next);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return available() != 0;
  }

  std::optional<DescriptorChain> walk(std::uint16_t head) {
    if (head >= layout_.size) return fail(QueueFault::kHeadOutOfRange);
    ChainWalk chain(memory_, features_.indirect);
    const QueueFault fault = chain.walk(layout_.descriptors, layout_.size, head);
    if (fault != QueueFault::kNone) return fail(fault);
    const std::size_t first_writable = chain.segments().first_writable();
    return DescriptorChain(memory_, head, chain.segments().take(), first_writable);
  }
};

}  // namespace

QueueFault check_split_layout(const GuestMemory& memory, const QueueLayout& layout,
                              std::uint16_t max_size) {
  const std::uint64_t size = layout.size;
  if (!std::has_single_bit(layout.size) || size > max_size || size > kMaxQueueSize) {
    return QueueFault::kSizeInvalid;
  }
  if (layout.descriptors % 16 != 0 || layout.driver % 2 != 0 || layout.device % 4 != 0) {
    return QueueFault::kMisaligned;
  }
  const bool inside = memory.contains(layout.descriptors, kDescriptorSize * size) &&
                      memory.contains(layout.driver, kRingHeader + 2 * size + 2) &&
                      memory.contains(layout.device, kRingHeader + 8 * size + 2);
  return inside ? QueueFault::kNone : QueueFault::kRingOutsideMemory;
}

std::unique_ptr<VirtQueue> make_split_queue(GuestMemory& memory, const QueueLayout& layout,
                                            const QueueFeatures& features,
                                            VirtioInterrupts& interrupts, const QueueState& state) {
  return std::make_unique<SplitQueue>(memory, layout, features, interrupts, state);
}

}  // namespace kvitest
