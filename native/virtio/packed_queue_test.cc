#include <doctest/doctest.h>

#include <array>
#include <string>
#include <vector>

#include "native/virtio/queue.h"
#include "native/virtio/test_driver.h"

namespace kvitest {
namespace {

constexpr Gpa kRing = 0x1000;
constexpr Gpa kDriverEvent = 0x2000;
constexpr Gpa kDeviceEvent = 0x3000;
constexpr Gpa kIndirectTable = 0x8000;
constexpr Gpa kBuffers = 0x10000;
constexpr std::uint64_t kRam = 1024 * 1024;
constexpr std::uint16_t kSize = 6;  // no power of two: a packed ring may have any size

constexpr std::uint16_t kNext = 1;
constexpr std::uint16_t kWrite = 2;
constexpr std::uint16_t kIndirect = 4;
constexpr std::uint16_t kAvailable = 0x0080;
constexpr std::uint16_t kUsed = 0x8000;
constexpr std::uint16_t kWrap = 0x8000;

struct Slot {
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t id;
  std::uint16_t flags;
};

struct Bench {
  explicit Bench(QueueFeatures wanted = {.indirect = true, .event_index = true, .packed = true})
      : features(wanted), queue(make(fresh_queue_state(wanted))) {}

  std::unique_ptr<VirtQueue> make(const QueueState& state) {
    return make_queue(memory, layout, features, interrupts, state);
  }

  // One descriptor as the driver writes it at a place, with its wrap counter there.
  void put(std::uint16_t at, Gpa address, std::uint32_t length, std::uint16_t id,
           std::uint16_t flags, bool wrap = true) {
    flags |= wrap ? kAvailable : kUsed;
    put_raw(kRing + 16u * at, address, length, id, flags);
  }
  void put_raw(Gpa at, Gpa address, std::uint32_t length, std::uint16_t id, std::uint16_t flags) {
    REQUIRE(memory.store<std::uint64_t>(at, address));
    REQUIRE(memory.store<std::uint32_t>(at + 8, length));
    REQUIRE(memory.store<std::uint16_t>(at + 12, id));
    REQUIRE(memory.store<std::uint16_t>(at + 14, flags));
  }
  Slot slot(std::uint16_t at) const {
    const Gpa gpa = kRing + 16u * at;
    return {memory.load<std::uint64_t>(gpa).value(), memory.load<std::uint32_t>(gpa + 8).value(),
            memory.load<std::uint16_t>(gpa + 12).value(),
            memory.load<std::uint16_t>(gpa + 14).value()};
  }
  void want_interrupts(std::uint16_t flags, std::uint16_t position = 0) {
    REQUIRE(memory.store<std::uint16_t>(kDriverEvent, position));
    REQUIRE(memory.store<std::uint16_t>(kDriverEvent + 2, flags));
  }
  std::uint16_t device_event() const { return memory.load<std::uint16_t>(kDeviceEvent).value(); }
  std::uint16_t device_flags() const {
    return memory.load<std::uint16_t>(kDeviceEvent + 2).value();
  }
  QueueFault pop_fault() {
    const bool popped = queue->pop().has_value();
    CHECK_FALSE(popped);
    CHECK(queue->available() == 0);
    return queue->fault();
  }
  void pop_and_use(std::uint32_t length = 0) {
    auto chain = queue->pop();
    REQUIRE(chain.has_value());
    queue->push_used(*chain, length);
  }

  GuestMemory memory{kRam};
  QueueLayout layout{kSize, kRing, kDriverEvent, kDeviceEvent};
  QueueFeatures features;
  CountingInterrupts interrupts;
  std::unique_ptr<VirtQueue> queue;
};

std::string read_all(DescriptorChain& chain) {
  std::string bytes(static_cast<std::size_t>(chain.readable()), '\0');
  bytes.resize(chain.read(std::as_writable_bytes(std::span(bytes))));
  return bytes;
}

void put_text(GuestMemory& memory, Gpa at, std::string_view bytes) {
  REQUIRE(memory.write(at, std::as_bytes(std::span(bytes))));
}

TEST_CASE("packed queue layout: any size up to the maximum, none beyond it") {
  const GuestMemory memory(kRam);
  for (const std::uint16_t size : {1, 3, 100, 128}) {
    CHECK(check_packed_layout(memory, {size, kRing, kDriverEvent, kDeviceEvent}, 128) ==
          QueueFault::kNone);
  }
  for (const std::uint16_t size : {0, 129, 0xffff}) {
    CHECK(check_packed_layout(memory, {size, kRing, kDriverEvent, kDeviceEvent}, 128) ==
          QueueFault::kSizeInvalid);
  }
}

TEST_CASE("packed queue layout: misaligned areas and such outside memory are refused") {
  const GuestMemory memory(kRam);
  const auto check = [&](Gpa ring, Gpa driver, Gpa device) {
    return check_packed_layout(memory, {8, ring, driver, device}, 128);
  };
  CHECK(check(kRing + 8, kDriverEvent, kDeviceEvent) == QueueFault::kMisaligned);
  CHECK(check(kRing, kDriverEvent + 2, kDeviceEvent) == QueueFault::kMisaligned);
  CHECK(check(kRing, kDriverEvent, kDeviceEvent + 2) == QueueFault::kMisaligned);
  CHECK(check(kRam - 112, kDriverEvent, kDeviceEvent) == QueueFault::kRingOutsideMemory);
  CHECK(check(kRing, kRam, kDeviceEvent) == QueueFault::kRingOutsideMemory);
  CHECK(check(kRing, kDriverEvent, kRam) == QueueFault::kRingOutsideMemory);
  CHECK(check(0xffff'ffff'ffff'fff0, kDriverEvent, kDeviceEvent) == QueueFault::kRingOutsideMemory);
  CHECK(check(kRam - 128, kRam - 8, kRam - 4) == QueueFault::kNone);
}

TEST_CASE("packed queue: a list is read and written, and used with the ID of its last descriptor") {
  Bench bench;
  put_text(bench.memory, kBuffers, "hello world");
  bench.put(0, kBuffers, 6, 40, kNext);
  bench.put(1, kBuffers + 6, 5, 41, kNext);
  bench.put(2, kBuffers + 0x100, 8, 4711, kWrite);
  auto chain = bench.queue->pop();
  REQUIRE(chain.has_value());
  CHECK(read_all(*chain) == "hello world");
  const std::string_view answer = "ABC";
  CHECK(chain->write(std::as_bytes(std::span(answer))) == 3);
  bench.queue->push_used(*chain, chain->written());

  const Slot used = bench.slot(0);
  CHECK(used.id == 4711);
  CHECK(used.length == 3);
  CHECK(used.flags == (kAvailable | kUsed | kWrite));
  // Of a list one descriptor is used; the others stay as the driver wrote them.
  CHECK(bench.slot(1).flags == (kAvailable | kNext));
  CHECK(bench.slot(2).flags == (kAvailable | kWrite));
}

TEST_CASE("packed queue: what was only read is used without the write flag") {
  Bench bench;
  bench.put(0, kBuffers, 6, 1, 0);
  bench.pop_and_use(0);
  CHECK(bench.slot(0).flags == (kAvailable | kUsed));
}

TEST_CASE("packed queue: a fresh ring and one of the wrong wrap counter have nothing available") {
  Bench bench;
  CHECK_FALSE(bench.queue->pop().has_value());
  // Both flags set: used, not available. Only USED: of the next round.
  bench.put_raw(kRing, kBuffers, 1, 0, kAvailable | kUsed);
  CHECK_FALSE(bench.queue->pop().has_value());
  bench.put(0, kBuffers, 1, 0, 0, false);
  CHECK_FALSE(bench.queue->pop().has_value());
  CHECK(bench.queue->fault() == QueueFault::kNone);
  bench.put(0, kBuffers, 1, 0, 0, true);
  CHECK(bench.queue->pop().has_value());
}

TEST_CASE("packed queue: positions wrap, in the middle of lists too, for many rounds") {
  Bench bench;
  std::uint16_t at = 0;
  bool wrap = true;
  const auto step = [&] {
    if (++at == kSize) {
      at = 0;
      wrap = !wrap;
    }
  };
  for (std::uint32_t round = 0; round < 5000; ++round) {
    // Lists of 1 to 5 descriptors: the wrap falls everywhere.
    const std::uint16_t length = 1 + round % 5;
    const std::uint16_t head = at;
    const bool head_wrap = wrap;
    for (std::uint16_t i = 0; i < length; ++i) {
      const bool last = i + 1 == length;
      const std::uint16_t flags = last ? std::uint16_t{0} : kNext;
      bench.put(at, kBuffers + i, 1, static_cast<std::uint16_t>(round), flags, wrap);
      step();
    }
    auto chain = bench.queue->pop();
    REQUIRE(chain.has_value());
    REQUIRE(chain->readable() == length);
    REQUIRE_FALSE(bench.queue->pop().has_value());
    bench.queue->push_used(*chain, 0);
    const Slot used = bench.slot(head);
    REQUIRE(used.id == static_cast<std::uint16_t>(round));
    REQUIRE(used.flags == (head_wrap ? kAvailable | kUsed : 0));
  }
  CHECK(bench.queue->fault() == QueueFault::kNone);
}

TEST_CASE("packed queue: requests are used in the order in which they are given back") {
  Bench bench;
  bench.put(0, kBuffers, 1, 10, kNext);
  bench.put(1, kBuffers, 1, 10, 0);
  bench.put(2, kBuffers + 8, 1, 11, 0);
  auto first = bench.queue->pop();
  auto second = bench.queue->pop();
  REQUIRE(second.has_value());
  bench.queue->push_used(*second, 0);
  // The second one took one descriptor, so the first one's used descriptor is the next.
  CHECK(bench.slot(0).id == 11);
  bench.queue->push_used(*first, 0);
  CHECK(bench.slot(1).id == 10);
  CHECK(bench.slot(1).flags == (kAvailable | kUsed));
}

TEST_CASE("packed queue: an indirect table is followed, whatever else its flags say") {
  Bench bench;
  put_text(bench.memory, kBuffers, "onetwo");
  // NEXT and the ring's flags mean nothing in a table, nor does alignment.
  const Gpa table = kIndirectTable + 1;
  std::array<std::byte, 32> raw{};
  store_le<std::uint64_t>(raw, 0, kBuffers);
  store_le<std::uint32_t>(raw, 8, 6);
  store_le<std::uint64_t>(raw, 16, kBuffers + 0x100);
  store_le<std::uint32_t>(raw, 24, 8);
  store_le<std::uint16_t>(raw, 30, kWrite | kNext | kIndirect | kUsed);
  REQUIRE(bench.memory.write(table, raw));
  bench.put(0, table, 32, 7, kIndirect | kWrite);
  auto chain = bench.queue->pop();
  REQUIRE(chain.has_value());
  CHECK(read_all(*chain) == "onetwo");
  CHECK(chain->writable() == 8);
  CHECK(chain->head() == 7);
  CHECK(chain->slots() == 1);
}

TEST_CASE("packed queue: a list that goes on in a descriptor not available breaks the queue") {
  Bench bench;
  bench.put(0, kBuffers, 1, 0, kNext);
  bench.put(1, kBuffers, 1, 0, 0, false);
  CHECK(bench.pop_fault() == QueueFault::kListNotAvailable);
}

TEST_CASE("packed queue: a list without end breaks the queue") {
  Bench bench;
  for (std::uint16_t i = 0; i < kSize; ++i) bench.put(i, kBuffers, 1, 0, kNext);
  // The whole ring is one list, and goes on where it began.
  const bool popped = bench.queue->pop().has_value();
  CHECK_FALSE(popped);
  CHECK(bench.queue->fault() == QueueFault::kChainTooLong);
  CHECK(bench.interrupts.resets_asked == 1);
}

TEST_CASE("packed queue: what is in use may not be made available again") {
  Bench bench;
  for (std::uint16_t i = 0; i < kSize; ++i) bench.put(i, kBuffers, 1, i, 0);
  std::vector<DescriptorChain> held;
  for (std::uint16_t i = 0; i < kSize; ++i) held.push_back(*bench.queue->pop());
  CHECK_FALSE(bench.queue->pop().has_value());
  CHECK(bench.queue->fault() == QueueFault::kNone);
  bench.put(0, kBuffers, 1, 99, 0, false);
  CHECK(bench.pop_fault() == QueueFault::kAvailableTwice);
}

TEST_CASE("packed queue: bad descriptors break the queue, each with its own fault") {
  const auto fault_of = [](Gpa address, std::uint32_t length, std::uint16_t flags,
                           bool indirect = true) {
    Bench bench({.indirect = indirect, .event_index = false, .packed = true});
    bench.put(0, address, length, 0, flags);
    return bench.pop_fault();
  };
  CHECK(fault_of(kRam - 3, 4, 0) == QueueFault::kBufferOutsideMemory);
  CHECK(fault_of(0xffff'ffff'ffff'fffe, 4, kWrite) == QueueFault::kBufferOutsideMemory);
  CHECK(fault_of(kIndirectTable, 16, kIndirect, false) == QueueFault::kIndirectNotNegotiated);
  CHECK(fault_of(kIndirectTable, 16, kIndirect | kNext) == QueueFault::kIndirectNested);
  for (const std::uint32_t length : {0u, 8u, 17u, 0xffff'ffffu}) {
    CHECK(fault_of(kIndirectTable, length, kIndirect) == QueueFault::kIndirectLengthInvalid);
  }
  CHECK(fault_of(0, 0xffff'fff0, kIndirect) == QueueFault::kChainTooLong);
  CHECK(fault_of(kRam - 16, 32, kIndirect) == QueueFault::kBufferOutsideMemory);
}

TEST_CASE("packed queue: a table behind a direct descriptor, a readable buffer behind a writable") {
  Bench mixed;
  mixed.put(0, kBuffers, 4, 0, kNext);
  mixed.put(1, kIndirectTable, 16, 0, kIndirect);
  CHECK(mixed.pop_fault() == QueueFault::kIndirectNested);
  Bench order;
  order.put(0, kBuffers, 4, 0, kWrite | kNext);
  order.put(1, kBuffers, 4, 0, 0);
  CHECK(order.pop_fault() == QueueFault::kReadableAfterWritable);
}

TEST_CASE("packed queue: buffers that belong together are used at once, across the wrap too") {
  Bench bench;
  for (std::uint16_t i = 0; i < kSize; ++i) bench.put(i, kBuffers, 1, i, 0);
  for (std::uint16_t i = 0; i < kSize - 1; ++i) bench.pop_and_use();
  bench.put(0, kBuffers, 8, 20, kWrite, false);
  std::vector<DescriptorChain> chains;
  for (int i = 0; i < 2; ++i) chains.push_back(*bench.queue->pop());
  const std::vector<UsedBuffer> together{{&chains[0], 0}, {&chains[1], 8}};
  bench.queue->push_used(together);
  CHECK(bench.slot(kSize - 1).flags == (kAvailable | kUsed));
  CHECK(bench.slot(0).flags == kWrite);
  CHECK(bench.slot(0).id == 20);
  CHECK(bench.slot(0).length == 8);
}

TEST_CASE("packed queue: a request larger than 4 GiB breaks the queue") {
  constexpr std::uint64_t ram = 64 * 1024 * 1024;
  GuestMemory memory(ram);
  CountingInterrupts interrupts;
  for (std::uint16_t i = 0; i < 65; ++i) {
    put_descriptor(memory, kIndirectTable + 16u * i, 0, ram, 0, 0);
  }
  put_descriptor(memory, kRing, kIndirectTable, 16 * 65, 0, kIndirect | kAvailable);
  const QueueFeatures features{.indirect = true, .event_index = false, .packed = true};
  const auto queue = make_queue(memory, {8, kRing, kDriverEvent, kDeviceEvent}, features,
                                interrupts, fresh_queue_state(features));
  CHECK_FALSE(queue->pop().has_value());
  CHECK(queue->fault() == QueueFault::kBufferTooLarge);
}

TEST_CASE("packed queue: a broken queue reports once and stays broken when the ring is repaired") {
  Bench bench;
  bench.put(0, kRam, 4, 0, 0);
  bench.pop_fault();
  bench.put(0, kBuffers, 4, 0, 0);
  CHECK(bench.pop_fault() == QueueFault::kBufferOutsideMemory);
  CHECK(bench.interrupts.resets_asked == 1);
  CHECK_FALSE(bench.queue->needs_interrupt());
}

TEST_CASE("packed queue: available() counts requests, not descriptors") {
  Bench bench;
  bench.put(0, kBuffers, 1, 0, kNext);
  bench.put(1, kBuffers, 1, 0, 0);
  bench.put(2, kBuffers, 1, 1, 0);
  CHECK(bench.queue->available() == 2);
  CHECK(bench.queue->pop().has_value());
  CHECK(bench.queue->available() == 1);
}

TEST_CASE("packed queue: the driver's event flags decide about interrupts") {
  Bench bench;
  for (std::uint16_t i = 0; i < 3; ++i) bench.put(i, kBuffers, 1, i, 0);
  CHECK_FALSE(bench.queue->needs_interrupt());
  bench.want_interrupts(0);
  bench.pop_and_use();
  CHECK(bench.queue->needs_interrupt());
  CHECK_FALSE(bench.queue->needs_interrupt());
  bench.want_interrupts(1);
  bench.pop_and_use();
  CHECK_FALSE(bench.queue->needs_interrupt());
  // A flag that was not negotiated cannot silence the device.
  Bench plain({.indirect = false, .event_index = false, .packed = true});
  plain.put(0, kBuffers, 1, 0, 0);
  plain.want_interrupts(2, 5 | kWrap);
  plain.pop_and_use();
  CHECK(plain.queue->needs_interrupt());
}

TEST_CASE("packed queue: only using the descriptor that the driver named interrupts") {
  Bench bench;
  bench.want_interrupts(2, 1 | kWrap);
  for (std::uint16_t i = 0; i < 3; ++i) bench.put(i, kBuffers, 1, i, 0);
  bench.pop_and_use();
  CHECK_FALSE(bench.queue->needs_interrupt());
  bench.pop_and_use();
  CHECK(bench.queue->needs_interrupt());
  bench.pop_and_use();
  CHECK_FALSE(bench.queue->needs_interrupt());
  // The same place of the next round.
  bench.want_interrupts(2, 1);
  for (std::uint16_t i = 3; i < kSize; ++i) bench.put(i, kBuffers, 1, i, 0);
  for (std::uint16_t i = 3; i < kSize; ++i) bench.pop_and_use();
  CHECK_FALSE(bench.queue->needs_interrupt());
  bench.put(0, kBuffers, 1, 0, 0, false);
  bench.put(1, kBuffers, 1, 0, 0, false);
  bench.pop_and_use();
  CHECK_FALSE(bench.queue->needs_interrupt());
  bench.pop_and_use();
  CHECK(bench.queue->needs_interrupt());
}

TEST_CASE("packed queue: more than two rounds between two looks interrupt wherever the event is") {
  Bench bench;
  bench.want_interrupts(2, 3 | kWrap);
  for (std::uint32_t i = 0; i < 2u * kSize; ++i) {
    const auto at = static_cast<std::uint16_t>(i % kSize);
    bench.put(at, kBuffers, 1, 0, 0, (i / kSize) % 2 == 0);
    bench.pop_and_use();
  }
  // The positions are equal again, as if nothing had been used.
  CHECK(bench.queue->needs_interrupt());
  CHECK_FALSE(bench.queue->needs_interrupt());
}

TEST_CASE("packed queue: popping to the end asks to hear of the next request, stopping early not") {
  Bench bench;
  for (std::uint16_t i = 0; i < 3; ++i) bench.put(i, kBuffers, 1, i, 0);
  CHECK(bench.queue->pop().has_value());
  CHECK(bench.device_flags() == 0);
  bench.queue->request_notification();
  CHECK(bench.device_flags() == 2);
  CHECK(bench.device_event() == (3 | kWrap));
  CHECK(bench.queue->pop().has_value());
  CHECK(bench.queue->pop().has_value());
  CHECK_FALSE(bench.queue->pop().has_value());
  CHECK(bench.device_event() == (3 | kWrap));
  Bench plain({.indirect = false, .event_index = false, .packed = true});
  CHECK_FALSE(plain.queue->pop().has_value());
  CHECK(plain.device_flags() == 0);
}

TEST_CASE("packed queue checkpoint: a queue goes on in the middle of its ring") {
  Bench bench;
  for (std::uint16_t i = 0; i < kSize; ++i) bench.put(i, kBuffers, 1, i, 0);
  for (std::uint16_t i = 0; i < 4; ++i) bench.pop_and_use();

  auto fork = bench.make(bench.queue->state());
  CHECK(possible(bench.queue->state(), kSize, bench.features));
  CHECK(fork->available() == 2);
  CHECK(fork->needs_interrupt());
  auto chain = fork->pop();
  REQUIRE(chain.has_value());
  CHECK(chain->head() == 4);
  fork->push_used(*chain, 0);
  CHECK(bench.slot(4).flags == (kAvailable | kUsed));
  CHECK(bench.slot(5).flags == kAvailable);
}

TEST_CASE("packed queue checkpoint: a request whose descriptors were overwritten goes on") {
  Bench bench;
  put_text(bench.memory, kBuffers, "0123456789");
  bench.put(0, kBuffers, 4, 3, kNext);
  bench.put(1, kBuffers + 4, 6, 3, 0);
  bench.put(2, kBuffers, 1, 9, 0);
  auto chain = bench.queue->pop();
  REQUIRE(chain.has_value());
  std::array<std::byte, 5> part;
  CHECK(chain->read(part) == 5);
  // This one is used where the first one's descriptor was.
  bench.pop_and_use();
  CHECK(bench.slot(0).id == 9);

  auto fork = bench.make(bench.queue->state());
  auto again = fork->retake(chain->state());
  REQUIRE(again.has_value());
  CHECK(again->head() == 3);
  CHECK(read_all(*again) == "56789");
  fork->push_used(*again, 0);
  CHECK(bench.slot(1).id == 3);
  CHECK(bench.slot(1).flags == (kAvailable | kUsed));
}

TEST_CASE("packed queue checkpoint: requests and positions that cannot be are refused") {
  Bench outside;
  const ChainState far{
      .head = 0, .read = 0, .slots = 1, .first_writable = 0, .segments = {{kRam, 4}}};
  CHECK_FALSE(outside.queue->retake(far).has_value());
  CHECK(outside.queue->fault() == QueueFault::kBufferOutsideMemory);
  for (const std::uint16_t slots : {0, kSize + 1}) {
    Bench bench;
    const ChainState state{
        .head = 0, .read = 0, .slots = slots, .first_writable = 0, .segments = {}};
    CHECK_FALSE(bench.queue->retake(state).has_value());
  }
  const QueueFeatures packed{.indirect = false, .event_index = false, .packed = true};
  CHECK_FALSE(possible({.next = kSize, .used = 0, .announced = 0}, kSize, packed));
  CHECK_FALSE(possible({.next = 0, .used = kWrap | kSize, .announced = 0}, kSize, packed));
  CHECK(possible({.next = kWrap | (kSize - 1), .used = 0, .announced = 0}, kSize, packed));
}

}  // namespace
}  // namespace kvitest
