// A virtqueue alone, in memory that the fuzzer wrote: layouts, rings, split or packed, and tables
// of its choice.
#include "native/virtio/queue.h"

#include <array>
#include <cstdlib>

#include "native/fuzz/input.h"
#include "native/fuzz/target.h"
#include "native/virtio/test_driver.h"

namespace kvitest {
namespace {

// What a checked chain promises: it never gives more than it said, and never outside RAM.
void use(VirtQueue& queue, DescriptorChain& chain, FuzzInput& input) {
  std::array<std::byte, 64> buffer{};
  const std::uint64_t readable = chain.readable();
  const std::size_t read = chain.read(buffer);
  if (read > readable || chain.readable() != readable - read) std::abort();
  chain.skip(input.u32());
  const std::uint64_t writable = chain.writable();
  const std::size_t written = chain.write(std::span(buffer).first(input.u8() % buffer.size()));
  if (written > writable || chain.written() != written) std::abort();
  if ((input.u8() & 1) != 0) chain.skip_answer(input.u16());
  if (queue.retake(chain.state()).has_value() && queue.fault() != QueueFault::kNone) std::abort();
}

}  // namespace

void fuzz_queue(std::span<const std::byte> bytes) {
  FuzzInput input(bytes);
  GuestMemory memory(64 * 1024);
  const std::uint8_t how = input.u8();
  const QueueFeatures features{.indirect = (how & 1) != 0,
                               .event_index = (how & 2) != 0,
                               .packed = (how & 0x40) != 0,
                               .in_order = (how & 0x20) != 0};
  QueueLayout layout{.size = static_cast<std::uint16_t>(1u << ((how >> 2) % 6)),
                     .descriptors = 0x1000,
                     .driver = 0x2000,
                     .device = 0x3000};
  if ((how & 0x80) != 0) layout = {input.u16(), input.u64(), input.u64(), input.u64()};
  if (check_layout(memory, layout, 256, features.packed) != QueueFault::kNone) return;

  CountingInterrupts interrupts;
  const auto queue = make_queue(memory, layout, features, interrupts, fresh_queue_state(features));
  for (int step = 0; step < 64 && !input.empty(); ++step) {
    const std::uint16_t at = input.u16();
    static_cast<void>(memory.write(at, input.bytes(input.u8())));
    const std::uint16_t waiting = queue->available();
    if (waiting > layout.size) std::abort();
    for (std::size_t left = request_budget(*queue); left > 0; --left) {
      auto chain = queue->pop();
      if (!chain) break;
      use(*queue, *chain, input);
      queue->push_used(*chain, chain->written());
    }
    queue->needs_interrupt();
    queue->request_notification();
  }
  if (interrupts.resets_asked > 1) std::abort();
  if ((queue->fault() != QueueFault::kNone) != (interrupts.resets_asked == 1)) std::abort();
}

}  // namespace kvitest
