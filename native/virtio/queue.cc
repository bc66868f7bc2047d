// What split and packed queues share; which of them a driver gets.
#include "native/virtio/queue.h"

#include "native/virtio/ring_queue.h"

namespace kvitest {

std::string_view to_string(QueueFault fault) {
  switch (fault) {
    case QueueFault::kNone:
      return "none";
    case QueueFault::kSizeInvalid:
      return "queue size is none that the ring can have within the maximum";
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
    case QueueFault::kListNotAvailable:
      return "a list goes on in a descriptor that is not available";
    case QueueFault::kAvailableTwice:
      return "a descriptor is available again before the device has used it";
  }
  return "unknown";
}

QueueFault check_layout(const GuestMemory& memory, const QueueLayout& layout,
                        std::uint16_t max_size, bool packed) {
  return packed ? check_packed_layout(memory, layout, max_size)
                : check_split_layout(memory, layout, max_size);
}

QueueState fresh_queue_state(const QueueFeatures& features) {
  QueueState state;
  // 2.8.1: both wrap counters start as 1.
  if (features.packed) state.next = state.used = state.announced = kWrapCounter;
  return state;
}

bool possible(const QueueState& state, std::uint16_t size, const QueueFeatures& features) {
  if (state.fault > QueueFault::kAvailableTwice) return false;
  if (!features.packed) return !state.lapped;
  const auto inside = [size](std::uint16_t position) { return (position & ~kWrapCounter) < size; };
  return inside(state.next) && inside(state.used) && inside(state.announced);
}

std::unique_ptr<VirtQueue> make_queue(GuestMemory& memory, const QueueLayout& layout,
                                      const QueueFeatures& features, VirtioInterrupts& interrupts,
                                      const QueueState& state) {
  return features.packed ? make_packed_queue(memory, layout, features, interrupts, state)
                         : make_split_queue(memory, layout, features, interrupts, state);
}

}  // namespace kvitest
