// Split virtqueues (virtio 1.3, 2.7).
#include <atomic>
#include <bit>
#include <utility>

#include "native/bus/little_endian.h"
#include "native/virtio/queue.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kDescriptorSize = 16;
constexpr std::uint64_t kRingHeader = 4;  // flags and idx
constexpr std::uint16_t kDescriptorNext = 1;
constexpr std::uint16_t kDescriptorWrite = 2;
constexpr std::uint16_t kDescriptorIndirect = 4;
constexpr std::uint16_t kAvailableNoInterrupt = 1;
constexpr std::uint16_t kMaxQueueSize = 32768;
// No driver in the field sends longer ones, and a request's list of segments is memory of ours.
constexpr std::uint32_t kMaxIndirectDescriptors = 1024;
constexpr std::uint64_t kMaxChainBytes = std::uint64_t{1} << 32;

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
      : memory_(memory), indirect_negotiated_(indirect_negotiated) {}

  QueueFault walk(Gpa table, std::uint32_t count, std::uint32_t index, bool in_indirect = false) {
    for (std::uint32_t steps = 0; steps < count; ++steps) {
      const auto descriptor = read_descriptor(memory_, table, index);
      if (!descriptor) return QueueFault::kRingOutsideMemory;
      if ((descriptor->flags & kDescriptorIndirect) != 0) {
        return in_indirect ? QueueFault::kIndirectNested : walk_indirect(*descriptor);
      }
      const QueueFault fault = add(*descriptor);
      if (fault != QueueFault::kNone) return fault;
      if ((descriptor->flags & kDescriptorNext) == 0) return QueueFault::kNone;
      if (descriptor->next >= count) return QueueFault::kNextOutOfRange;
      index = descriptor->next;
    }
    // More steps than the table has entries: the chain loops.
    return QueueFault::kChainTooLong;
  }

  std::vector<Segment> take_segments() { return std::move(segments_); }
  std::size_t first_writable() const { return readable_count_; }

 private:
  QueueFault walk_indirect(const Descriptor& descriptor) {
    if (!indirect_negotiated_) return QueueFault::kIndirectNotNegotiated;
    // 2.7.5.3.1: NEXT together with INDIRECT is forbidden, so an indirect table ends its chain.
    if ((descriptor.flags & kDescriptorNext) != 0) return QueueFault::kIndirectNested;
    if (descriptor.length == 0 || descriptor.length % kDescriptorSize != 0) {
      return QueueFault::kIndirectLengthInvalid;
    }
    const std::uint64_t count = descriptor.length / kDescriptorSize;
    if (count > kMaxIndirectDescriptors) return QueueFault::kChainTooLong;
    if (!memory_.contains(descriptor.address, descriptor.length)) {
      return QueueFault::kBufferOutsideMemory;
    }
    return walk(descriptor.address, static_cast<std::uint32_t>(count), 0, true);
  }

  QueueFault add(const Descriptor& descriptor) {
    const bool writable = (descriptor.flags & kDescriptorWrite) != 0;
    if (!writable && segments_.size() > readable_count_) return QueueFault::kReadableAfterWritable;
    // An empty buffer names no byte: its address is nothing to check.
    if (descriptor.length != 0 && !memory_.contains(descriptor.address, descriptor.length)) {
      return QueueFault::kBufferOutsideMemory;
    }
    bytes_ += descriptor.length;
    if (bytes_ > kMaxChainBytes) return QueueFault::kBufferTooLarge;
    segments_.push_back({descriptor.address, descriptor.length});
    if (!writable) ++readable_count_;
    return QueueFault::kNone;
  }

  const GuestMemory& memory_;
  bool indirect_negotiated_;
  std::vector<Segment> segments_;
  std::size_t readable_count_ = 0;
  std::uint64_t bytes_ = 0;
};

class SplitQueue : public VirtQueue {
 public:
  SplitQueue(GuestMemory& memory, const QueueLayout& layout, const QueueFeatures& features,
             VirtioInterrupts& interrupts, const QueueState& state)
      : memory_(memory),
        layout_(layout),
        features_(features),
        interrupts_(interrupts),
        state_(state) {}

  std::uint16_t size() const override { return layout_.size; }
  QueueFault fault() const override { return state_.fault; }

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

  QueueState state() const override { return state_; }

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

  void push_used(const DescriptorChain& chain, std::uint32_t length) override {
    if (state_.fault != QueueFault::kNone) return;
    const Gpa entry =
        layout_.device + kRingHeader + std::uint64_t{8} * (state_.used % layout_.size);
    // The element before the index: the store of the index releases it.
    const bool stored = memory_.store<std::uint32_t>(entry, chain.head()) &&
                        memory_.store<std::uint32_t>(entry + 4, length) &&
                        memory_.store<std::uint16_t>(layout_.device + 2,
                                                     static_cast<std::uint16_t>(state_.used + 1));
    if (!stored) {
      fail(QueueFault::kRingOutsideMemory);
      return;
    }
    ++state_.used;
  }

  bool needs_interrupt() override {
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
    const std::size_t first_writable = chain.first_writable();
    return DescriptorChain(memory_, head, chain.take_segments(), first_writable);
  }

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
  VirtioInterrupts& interrupts_;
  QueueState state_;
};

}  // namespace

std::string_view to_string(QueueFault fault) {
  switch (fault) {
    case QueueFault::kNone:
      return "none";
    case QueueFault::kSizeInvalid:
      return "queue size is not a power of two within the maximum";
    case QueueFault::kMisaligned:
      return "ring address is misaligned";
    case QueueFault::kRingOutsideMemory:
      return "ring is outside memory";
    case QueueFault::kAvailableIndexJumped:
      return "available index is more than a queue size ahead";
    case QueueFault::kHeadOutOfRange:
      return "head is outside the descriptor table";
    case QueueFault::kNextOutOfRange:
      return "next is outside the descriptor table";
    case QueueFault::kChainTooLong:
      return "descriptor chain loops or is too long";
    case QueueFault::kIndirectNotNegotiated:
      return "indirect descriptor without the feature";
    case QueueFault::kIndirectNested:
      return "indirect descriptor inside an indirect table or with a next one";
    case QueueFault::kIndirectLengthInvalid:
      return "indirect table length is 0 or not a multiple of 16";
    case QueueFault::kReadableAfterWritable:
      return "readable descriptor after a writable one";
    case QueueFault::kBufferOutsideMemory:
      return "buffer is outside memory";
    case QueueFault::kBufferTooLarge:
      return "request is larger than 4 GiB";
  }
  return "unknown";
}

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
