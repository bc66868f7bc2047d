// Packed virtqueues (virtio 1.3, 2.8).
#include <atomic>
#include <utility>

#include "native/little_endian.h"
#include "native/virtio/ring_queue.h"
#include "native/virtio/segments.h"

namespace kvitest {
namespace {

constexpr std::uint16_t kFlagAvailable = 1 << 7;
constexpr std::uint16_t kFlagUsed = 1 << 15;
constexpr std::uint64_t kIdOffset = 12;
constexpr std::uint64_t kFlagsOffset = 14;
constexpr std::uint64_t kEventBytes = 4;  // of an event suppression structure

// struct pvirtq_event_suppress: the flags' values (2.8.10).
constexpr std::uint16_t kEventDisable = 1;
constexpr std::uint16_t kEventDescriptor = 2;

struct Descriptor {
  Gpa address;
  std::uint32_t length;
  std::uint16_t id;
  std::uint16_t flags;
};

// A place in the ring and the wrap counter there.
struct Position {
  std::uint32_t offset;
  bool wrap;
};

class PackedQueue : public RingQueue {
 public:
  using RingQueue::RingQueue;

  std::optional<DescriptorChain> pop() override {
    if (state_.fault != QueueFault::kNone) return std::nullopt;
    if (!is_available(unpack(state_.next)) && !arm_and_look_again()) return std::nullopt;
    return walk();
  }

  std::optional<DescriptorChain> retake(const ChainState& saved) override {
    if (state_.fault != QueueFault::kNone) return std::nullopt;
    if (saved.slots == 0 || saved.slots > layout_.size) return fail(QueueFault::kHeadOutOfRange);
    SegmentList segments(memory_);
    for (std::size_t i = 0; i < saved.segments.size(); ++i) {
      const Segment& one = saved.segments[i];
      const QueueFault fault = segments.add(one.gpa, one.length, i >= saved.first_writable);
      if (fault != QueueFault::kNone) return fail(fault);
    }
    const std::size_t first_writable = segments.first_writable();
    DescriptorChain chain(memory_, saved.head, segments.take(), first_writable, saved.slots);
    chain.skip(saved.read);
    return chain;
  }

  std::uint16_t available() override {
    if (state_.fault != QueueFault::kNone) return 0;
    std::uint16_t requests = 0;
    end_of_available(requests);
    return requests;
  }

  bool needs_interrupt() override {
    flush_used();
    if (state_.fault != QueueFault::kNone) return false;
    if (state_.used == state_.announced && !state_.lapped) return false;
    // The driver publishes its wish, then looks at the ring; we write the ring, then look at its
    // wish. Without a full fence both could miss the other.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const std::uint16_t before = std::exchange(state_.announced, state_.used);
    const bool lapped = std::exchange(state_.lapped, false);
    const auto flags = memory_.load<std::uint16_t>(layout_.driver + 2);
    if (!flags || (*flags & 3) == kEventDisable) return false;
    if ((*flags & 3) != kEventDescriptor || !features_.event_index || lapped) return true;
    const auto event = memory_.load<std::uint16_t>(layout_.driver);
    if (!event) return false;
    // A place that is not in the ring: rather once too often.
    if ((*event & ~kWrapCounter) >= layout_.size) return true;
    return distance(before, *event) < distance(before, state_.used);
  }

  void request_notification() override {
    if (state_.fault != QueueFault::kNone || !features_.event_index) return;
    std::uint16_t requests = 0;
    arm(end_of_available(requests));
  }

 private:
  // 2.8.9: of requests that belong together the first one's flags come last.
  void store_used(std::span<const UsedElement> elements) override {
    const Position first = unpack(state_.used);
    Position at = first;
    bool stored = true;
    for (std::size_t i = 0; i < elements.size(); ++i) {
      const UsedElement& one = elements[i];
      const Gpa slot = slot_address(at);
      stored = stored && memory_.store<std::uint32_t>(slot + 8, one.length) &&
               memory_.store<std::uint16_t>(slot + kIdOffset, one.id) &&
               (i == 0 || mark_used(at, one.length));
      const std::uint32_t unannounced = distance(state_.announced, pack(at));
      if (unannounced + one.slots >= 2u * layout_.size) state_.lapped = true;
      at = advance(at, one.slots);
    }
    if (!stored || !mark_used(first, elements.front().length)) {
      fail(QueueFault::kRingOutsideMemory);
      return;
    }
    state_.used = pack(at);
  }

  Position unpack(std::uint16_t packed) const {
    return {static_cast<std::uint32_t>(packed & ~kWrapCounter), (packed & kWrapCounter) != 0};
  }
  static std::uint16_t pack(Position at) {
    return static_cast<std::uint16_t>(at.offset | (at.wrap ? kWrapCounter : 0));
  }
  Position advance(Position at, std::uint32_t slots) const {
    at.offset += slots;
    if (at.offset >= layout_.size) {
      at.offset -= layout_.size;
      at.wrap = !at.wrap;
    }
    return at;
  }
  // How far it is from one position forward to another, of the 2 * size that there are.
  std::uint32_t distance(std::uint16_t from, std::uint16_t to) const {
    const auto linear = [this](Position at) { return at.offset + (at.wrap ? 0u : layout_.size); };
    const std::uint32_t around = 2u * layout_.size;
    return (linear(unpack(to)) + around - linear(unpack(from))) % around;
  }

  Gpa slot_address(Position at) const {
    return layout_.descriptors + kDescriptorSize * std::uint64_t{at.offset};
  }

  // 2.8.1: available when the flags differ and the available one is as the driver's wrap counter.
  static bool available_at(std::uint16_t flags, Position at) {
    return ((flags & kFlagAvailable) != 0) == at.wrap && ((flags & kFlagUsed) != 0) != at.wrap;
  }
  bool is_available(Position at) {
    const auto flags = memory_.load<std::uint16_t>(slot_address(at) + kFlagsOffset);
    return flags && available_at(*flags, at);
  }

  std::optional<Descriptor> read_descriptor(Gpa at) const {
    std::byte raw[kDescriptorSize];
    if (!memory_.read(at, raw)) return std::nullopt;
    const std::span<const std::byte> bytes(raw);
    return Descriptor{read_le(bytes.subspan(0, 8)),
                      static_cast<std::uint32_t>(read_le(bytes.subspan(8, 4))),
                      static_cast<std::uint16_t>(read_le(bytes.subspan(kIdOffset, 2))),
                      static_cast<std::uint16_t>(read_le(bytes.subspan(kFlagsOffset, 2)))};
  }

  // The store of the flags releases the rest of the descriptor.
  bool mark_used(Position at, std::uint32_t length) {
    std::uint16_t flags = at.wrap ? kFlagAvailable | kFlagUsed : 0;
    // 2.8.3: whether anything was written; the length counts only then.
    if (length != 0) flags |= kDescriptorWrite;
    return memory_.store<std::uint16_t>(slot_address(at) + kFlagsOffset, flags);
  }

  // The flags first, and only once: the driver wrote them last.
  std::optional<Descriptor> read_slot(Position at) const {
    const auto flags = memory_.load<std::uint16_t>(slot_address(at) + kFlagsOffset);
    auto descriptor = read_descriptor(slot_address(at));
    if (!flags || !descriptor) return std::nullopt;
    descriptor->flags = *flags;
    return descriptor;
  }

  // Behind the last request that is available, and how many requests there are.
  Position end_of_available(std::uint16_t& requests) {
    Position at = unpack(state_.next);
    for (std::uint32_t i = distance(state_.used, state_.next); i < layout_.size; ++i) {
      const auto flags = memory_.load<std::uint16_t>(slot_address(at) + kFlagsOffset);
      if (!flags || !available_at(*flags, at)) break;
      if ((*flags & kDescriptorNext) == 0) ++requests;
      at = advance(at, 1);
    }
    return at;
  }

  std::optional<DescriptorChain> walk() {
    SegmentList segments(memory_);
    Position at = unpack(state_.next);
    // Popped before and not used yet: a driver does not make these available again.
    const std::uint32_t taken = distance(state_.used, state_.next);
    for (std::uint32_t slots = 1; slots <= layout_.size; ++slots) {
      if (taken + slots > layout_.size) return fail(QueueFault::kAvailableTwice);
      const auto descriptor = read_slot(at);
      if (!descriptor) return fail(QueueFault::kRingOutsideMemory);
      // 2.8.17: the head is made available last.
      if (!available_at(descriptor->flags, at)) return fail(QueueFault::kListNotAvailable);
      const bool indirect = (descriptor->flags & kDescriptorIndirect) != 0;
      // 2.8.5: a list has descriptors of one kind only.
      if (indirect && slots > 1) return fail(QueueFault::kIndirectNested);
      const QueueFault fault =
          indirect ? add_table(*descriptor, segments) : add(*descriptor, segments);
      if (fault != QueueFault::kNone) return fail(fault);
      at = advance(at, 1);
      if ((descriptor->flags & kDescriptorNext) != 0) continue;
      state_.next = pack(at);
      const std::size_t first_writable = segments.first_writable();
      // 2.8.6: the last descriptor of a list has its buffer ID.
      return DescriptorChain(memory_, descriptor->id, segments.take(), first_writable,
                             static_cast<std::uint16_t>(slots));
    }
    return fail(QueueFault::kChainTooLong);
  }

  static QueueFault add(const Descriptor& descriptor, SegmentList& segments) {
    return segments.add(descriptor.address, descriptor.length,
                        (descriptor.flags & kDescriptorWrite) != 0);
  }

  // 2.8.7: the table's descriptors follow one another; of their flags only WRITE means something.
  QueueFault add_table(const Descriptor& table, SegmentList& segments) const {
    if (!features_.indirect) return QueueFault::kIndirectNotNegotiated;
    if ((table.flags & kDescriptorNext) != 0) return QueueFault::kIndirectNested;
    std::uint32_t count = 0;
    QueueFault fault = segments.check_table(table.address, table.length, count);
    for (std::uint32_t i = 0; i < count && fault == QueueFault::kNone; ++i) {
      const auto descriptor = read_descriptor(table.address + kDescriptorSize * i);
      if (!descriptor) return QueueFault::kBufferOutsideMemory;
      fault = add(*descriptor, segments);
    }
    return fault;
  }

  // Asks for a notification about the request that is made available there.
  void arm(Position at) {
    const bool stored = memory_.store<std::uint16_t>(layout_.device, pack(at)) &&
                        memory_.store<std::uint16_t>(layout_.device + 2, kEventDescriptor);
    if (!stored) fail(QueueFault::kRingOutsideMemory);
  }

  // Without the event index the driver always notifies: the structure stays 0, "enabled".
  bool arm_and_look_again() {
    if (!features_.event_index) return false;
    arm(unpack(state_.next));
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return state_.fault == QueueFault::kNone && is_available(unpack(state_.next));
  }
};

}  // namespace

QueueFault check_packed_layout(const GuestMemory& memory, const QueueLayout& layout,
                               std::uint16_t max_size) {
  if (layout.size == 0 || layout.size > max_size || layout.size > kMaxQueueSize) {
    return QueueFault::kSizeInvalid;
  }
  if (layout.descriptors % 16 != 0 || layout.driver % 4 != 0 || layout.device % 4 != 0) {
    return QueueFault::kMisaligned;
  }
  const bool inside = memory.contains(layout.descriptors, kDescriptorSize * layout.size) &&
                      memory.contains(layout.driver, kEventBytes) &&
                      memory.contains(layout.device, kEventBytes);
  return inside ? QueueFault::kNone : QueueFault::kRingOutsideMemory;
}

std::unique_ptr<VirtQueue> make_packed_queue(GuestMemory& memory, const QueueLayout& layout,
                                             const QueueFeatures& features,
                                             VirtioInterrupts& interrupts,
                                             const QueueState& state) {
  return std::make_unique<PackedQueue>(memory, layout, features, interrupts, state);
}

}  // namespace kvitest
