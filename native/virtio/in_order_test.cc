// IN_ORDER (virtio 1.3, 2.7.9 and 2.8.8): batches of buffers used by one element.
#include <doctest/doctest.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "native/virtio/features.h"
#include "native/virtio/queue.h"
#include "native/virtio/rng/rng.h"
#include "native/virtio/test_driver.h"

namespace kvitest {
namespace {

constexpr std::uint16_t kSize = 8;
constexpr Gpa kBuffers = 0x10000;
constexpr std::uint16_t kWriteFlag = 2;

struct Bench {
  explicit Bench(bool packed, bool in_order = true)
      : features{.packed = packed, .in_order = in_order},
        queue(make_queue(memory, layout, features, interrupts, fresh_queue_state(features))) {}

  // So many buffers of 16 bytes, of one descriptor each, from a place of the ring on.
  void offer(std::uint16_t from, std::uint16_t count, bool writable = true) {
    const std::uint16_t flags = writable ? kWriteFlag : 0;
    for (std::uint16_t i = from; i < from + count; ++i) {
      const std::uint16_t slot = i % kSize;
      ring.set_descriptor(slot, kBuffers + 16u * slot, 16, flags, 0);
      ring.set_available(slot);
    }
  }
  // Uses the next one after that many bytes were written.
  void use(std::size_t bytes) {
    auto chain = queue->pop();
    REQUIRE(chain.has_value());
    const std::array<std::byte, 16> zeros{};
    chain->write(std::span(zeros).first(bytes));
    queue->push_used(*chain, chain->written());
  }
  std::uint16_t used_index() const { return memory.load<std::uint16_t>(layout.device + 2).value(); }
  std::uint32_t used_id(std::uint16_t at) const {
    return memory.load<std::uint32_t>(layout.device + 4 + 8u * at).value();
  }
  std::uint32_t used_length(std::uint16_t at) const {
    return memory.load<std::uint32_t>(layout.device + 8 + 8u * at).value();
  }
  // Of a packed ring: the flags and the ID at a place.
  std::uint16_t flags(std::uint16_t at) const {
    return memory.load<std::uint16_t>(layout.descriptors + 16u * at + 14).value();
  }
  std::uint16_t id(std::uint16_t at) const {
    return memory.load<std::uint16_t>(layout.descriptors + 16u * at + 12).value();
  }

  GuestMemory memory{1024 * 1024};
  QueueLayout layout{kSize, 0x1000, 0x2000, 0x3000};
  QueueFeatures features;
  CountingInterrupts interrupts;
  TestQueue ring{memory, kSize, 0x1000, 0x2000, 0x3000, features.packed};
  std::unique_ptr<VirtQueue> queue;
};

TEST_CASE("in order: a batch is one used element of the last buffer, where the first one's was") {
  Bench bench(false);
  REQUIRE(bench.memory.fill(bench.layout.device + 4, std::byte{0xee}, 8 * kSize));
  bench.offer(0, 3);
  for (int i = 0; i < 3; ++i) bench.use(16);
  // Together, with the interrupt.
  CHECK(bench.used_index() == 0);
  CHECK(bench.queue->needs_interrupt());
  CHECK(bench.used_index() == 3);
  CHECK(bench.used_id(0) == 2);
  CHECK(bench.used_length(0) == 16);
  CHECK(bench.used_id(1) == 0xeeee'eeee);
  CHECK(bench.used_id(2) == 0xeeee'eeee);
  // The next batch is where its first buffer's element is, over the end of the ring too.
  bench.offer(3, 6);
  for (int i = 0; i < 6; ++i) bench.use(16);
  bench.queue->needs_interrupt();
  CHECK(bench.used_index() == 9);
  CHECK(bench.used_id(3) == 0);
}

TEST_CASE("in order: a buffer that was not written to its end has an element of its own") {
  Bench bench(false);
  bench.offer(0, 4);
  for (const std::size_t bytes : {16, 7, 16, 16}) bench.use(bytes);
  bench.queue->needs_interrupt();
  CHECK(bench.used_index() == 4);
  // The first is skipped; the driver may not take the second for whole.
  CHECK(bench.used_id(0) == 1);
  CHECK(bench.used_length(0) == 7);
  CHECK(bench.used_id(2) == 3);
  CHECK(bench.used_length(2) == 16);
}

TEST_CASE("in order: without the feature every buffer has its element, at once") {
  Bench bench(false, false);
  bench.offer(0, 3);
  for (std::uint16_t i = 0; i < 3; ++i) {
    bench.use(16);
    CHECK(bench.used_index() == i + 1);
    CHECK(bench.used_id(i) == i);
  }
}

TEST_CASE(
    "in order: of a packed ring one descriptor is used for a batch, and the next lies behind") {
  Bench bench(true);
  bench.offer(0, 5);
  for (int i = 0; i < 3; ++i) bench.use(16);
  CHECK((bench.flags(0) & 0x8000) == 0);
  CHECK(bench.queue->needs_interrupt());
  CHECK((bench.flags(0) & 0x8080) == 0x8080);
  CHECK(bench.id(0) == 2);
  CHECK((bench.flags(1) & 0x8000) == 0);
  CHECK((bench.flags(2) & 0x8000) == 0);
  for (const std::size_t bytes : {3, 16}) bench.use(bytes);
  bench.queue->needs_interrupt();
  CHECK((bench.flags(3) & 0x8080) == 0x8080);
  CHECK(bench.id(3) == 3);
  CHECK((bench.flags(4) & 0x8080) == 0x8080);
  CHECK(bench.id(4) == 4);
  // Over the end of the ring: the wrap counter changes in the middle of the batch.
  bench.offer(5, 5);
  for (int i = 0; i < 5; ++i) bench.use(16);
  bench.queue->needs_interrupt();
  CHECK((bench.flags(5) & 0x8080) == 0x8080);
  CHECK(bench.id(5) == 1);
  bench.offer(10, 1);
  bench.use(16);
  bench.queue->needs_interrupt();
  CHECK((bench.flags(2) & 0x8080) == 0);
}

TEST_CASE("in order: buffers that are only read are used completely") {
  Bench bench(false);
  bench.offer(0, 8, false);
  for (int i = 0; i < 8; ++i) bench.use(0);
  bench.queue->needs_interrupt();
  CHECK(bench.used_index() == 8);
  CHECK(bench.used_id(0) == 7);
  CHECK(bench.used_length(0) == 0);
}

TEST_CASE("in order: a batch interrupts when used_event is crossed inside it") {
  Bench bench(false);
  bench.features.event_index = true;
  bench.queue = make_queue(bench.memory, bench.layout, bench.features, bench.interrupts, {});
  bench.ring.set_used_event(1);
  bench.offer(0, 4);
  for (int i = 0; i < 4; ++i) bench.use(16);
  CHECK(bench.queue->needs_interrupt());
  bench.offer(4, 2);
  for (int i = 0; i < 2; ++i) bench.use(16);
  CHECK_FALSE(bench.queue->needs_interrupt());
  CHECK(bench.used_index() == 6);
}

TEST_CASE("in order: a device's requests of one doorbell are one batch") {
  const auto rng = make_rng({});
  rng->ask_for(kFeatureInOrder);
  TestBoard board(*rng);
  TestDriver driver(board);
  REQUIRE(driver.start(TestDriver::kTransportFeatures | kFeatureInOrder) == 0x0f);
  TestQueue& ring = driver.queue(0);
  for (std::uint16_t i = 0; i < 5; ++i) {
    ring.set_descriptor(i, driver.allocate(32), 32, kWriteFlag, 0);
    ring.set_available(i);
  }
  driver.notify(0);
  CHECK(ring.used_index() == 5);
  CHECK(ring.take_used()->id == 4);
}

}  // namespace
}  // namespace kvitest
