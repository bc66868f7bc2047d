#include "native/virtio/queue.h"

#include <doctest/doctest.h>

#include <array>
#include <string>

#include "native/virtio/test_driver.h"

namespace kvitest {
namespace {

constexpr Gpa kDescriptors = 0x1000;
constexpr Gpa kAvailable = 0x2000;
constexpr Gpa kUsed = 0x3000;
constexpr Gpa kBuffers = 0x10000;
constexpr Gpa kIndirectTable = 0x8000;
constexpr std::uint64_t kRam = 1024 * 1024;
constexpr std::uint16_t kSize = 8;

struct Bench {
  explicit Bench(QueueFeatures features = {.indirect = true, .event_index = true})
      : queue(make_split_queue(memory, layout, features, interrupts)) {}

  QueueFault pop_fault() {
    const bool popped = queue->pop().has_value();
    CHECK_FALSE(popped);
    return queue->fault();
  }

  GuestMemory memory{kRam};
  QueueLayout layout{kSize, kDescriptors, kAvailable, kUsed};
  CountingInterrupts interrupts;
  TestQueue ring{memory, kSize, kDescriptors, kAvailable, kUsed};
  std::unique_ptr<VirtQueue> queue;
};

std::string read_all(DescriptorChain& chain) {
  std::string bytes(static_cast<std::size_t>(chain.readable()), '\0');
  bytes.resize(chain.read(std::as_writable_bytes(std::span(bytes))));
  return bytes;
}

std::string guest_string(const GuestMemory& memory, Gpa at, std::size_t length) {
  std::string bytes(length, '\0');
  REQUIRE(memory.read(at, std::as_writable_bytes(std::span(bytes))));
  return bytes;
}

void put(GuestMemory& memory, Gpa at, std::string_view bytes) {
  REQUIRE(memory.write(at, std::as_bytes(std::span(bytes))));
}

TEST_CASE("queue layout: sizes that are no power of two within the maximum are refused") {
  const GuestMemory memory(kRam);
  for (const std::uint16_t size : {0, 3, 12, 256, 0x8000, 0xffff}) {
    const QueueLayout layout{size, kDescriptors, kAvailable, kUsed};
    CHECK(check_split_layout(memory, layout, 128) == QueueFault::kSizeInvalid);
  }
  CHECK(check_split_layout(memory, {128, kDescriptors, kAvailable, kUsed}, 128) ==
        QueueFault::kNone);
  CHECK(check_split_layout(memory, {1, kDescriptors, kAvailable, kUsed}, 128) == QueueFault::kNone);
}

TEST_CASE("queue layout: misaligned tables are refused") {
  const GuestMemory memory(kRam);
  CHECK(check_split_layout(memory, {8, kDescriptors + 8, kAvailable, kUsed}, 128) ==
        QueueFault::kMisaligned);
  CHECK(check_split_layout(memory, {8, kDescriptors, kAvailable + 1, kUsed}, 128) ==
        QueueFault::kMisaligned);
  CHECK(check_split_layout(memory, {8, kDescriptors, kAvailable, kUsed + 2}, 128) ==
        QueueFault::kMisaligned);
}

TEST_CASE("queue layout: tables that leave memory by one byte or wrap around are refused") {
  const GuestMemory memory(kRam);
  const auto outside = QueueFault::kRingOutsideMemory;
  CHECK(check_split_layout(memory, {8, kRam - 112, kAvailable, kUsed}, 128) == outside);
  CHECK(check_split_layout(memory, {8, kDescriptors, kRam - 20, kUsed}, 128) == outside);
  CHECK(check_split_layout(memory, {8, kDescriptors, kAvailable, kRam - 68}, 128) == outside);
  CHECK(check_split_layout(memory, {8, 0xffff'ffff'ffff'fff0, kAvailable, kUsed}, 128) == outside);
  CHECK(check_split_layout(memory, {8, kRam - 128, kAvailable, kUsed}, 128) == QueueFault::kNone);
}

TEST_CASE("queue: an empty ring pops nothing and asks to be notified") {
  Bench bench;
  const bool popped = bench.queue->pop().has_value();
  CHECK_FALSE(popped);
  CHECK(bench.queue->fault() == QueueFault::kNone);
  CHECK(bench.ring.avail_event() == 0);
}

TEST_CASE("queue: a chain is read and written across its segments") {
  Bench bench;
  put(bench.memory, kBuffers, "hello ");
  put(bench.memory, kBuffers + 0x100, "world");
  bench.ring.set_descriptor(3, kBuffers, 6, TestQueue::kNext, 5);
  bench.ring.set_descriptor(5, kBuffers + 0x100, 5, TestQueue::kNext, 1);
  bench.ring.set_descriptor(1, kBuffers + 0x200, 2, TestQueue::kNext | TestQueue::kWrite, 2);
  bench.ring.set_descriptor(2, kBuffers + 0x300, 4, TestQueue::kWrite, 0);
  bench.ring.set_available(3);

  auto chain = bench.queue->pop();
  REQUIRE(chain.has_value());
  CHECK(chain->readable() == 11);
  CHECK(chain->writable() == 6);
  CHECK(read_all(*chain) == "hello world");
  const std::string_view answer = "ABCDEFGH";
  CHECK(chain->write(std::as_bytes(std::span(answer))) == 6);
  bench.queue->push_used(*chain, chain->written());

  CHECK(guest_string(bench.memory, kBuffers + 0x200, 2) == "AB");
  CHECK(guest_string(bench.memory, kBuffers + 0x300, 4) == "CDEF");
  const auto used = bench.ring.take_used();
  REQUIRE(used.has_value());
  CHECK(used->id == 3);
  CHECK(used->length == 6);
}

TEST_CASE("queue: pieces read one after the other make up the whole") {
  Bench bench;
  put(bench.memory, kBuffers, "abcdefghij");
  bench.ring.set_descriptor(0, kBuffers, 4, TestQueue::kNext, 1);
  bench.ring.set_descriptor(1, kBuffers + 4, 6, 0, 0);
  bench.ring.set_available(0);
  auto chain = bench.queue->pop();
  REQUIRE(chain.has_value());
  std::string text;
  std::array<std::byte, 3> piece{};
  for (std::size_t got = chain->read(piece); got != 0; got = chain->read(piece)) {
    text.append(reinterpret_cast<const char*>(piece.data()), got);
  }
  CHECK(text == "abcdefghij");
  CHECK(chain->readable() == 0);
}

TEST_CASE("queue: an indirect table is followed, also after direct descriptors") {
  Bench bench;
  put(bench.memory, kBuffers, "onetwo");
  put_descriptor(bench.memory, kIndirectTable, kBuffers + 3, 3, TestQueue::kNext, 1);
  put_descriptor(bench.memory, kIndirectTable + 16, kBuffers + 0x100, 8, TestQueue::kWrite, 0);
  bench.ring.set_descriptor(0, kBuffers, 3, TestQueue::kNext, 1);
  bench.ring.set_descriptor(1, kIndirectTable, 32, TestQueue::kIndirect, 0);
  bench.ring.set_available(0);
  auto chain = bench.queue->pop();
  REQUIRE(chain.has_value());
  CHECK(read_all(*chain) == "onetwo");
  CHECK(chain->writable() == 8);
}

TEST_CASE("queue: indices wrap around the ring and around 16 bits") {
  Bench bench;
  bench.ring.set_descriptor(0, kBuffers, 1, 0, 0);
  std::uint32_t handled = 0;
  for (std::uint32_t i = 0; i < 70000; ++i) {
    bench.ring.set_available(0);
    auto chain = bench.queue->pop();
    REQUIRE(chain.has_value());
    bench.queue->push_used(*chain, 0);
    REQUIRE(bench.ring.take_used().has_value());
    ++handled;
  }
  CHECK(handled == 70000);
  CHECK(bench.ring.used_index() == 70000 % 65536);
  CHECK(bench.queue->fault() == QueueFault::kNone);
}

TEST_CASE("queue: a full ring is not a jump of the index, one more is") {
  Bench full;
  full.ring.set_available_index(kSize);
  full.ring.set_descriptor(0, kBuffers, 1, 0, 0);
  CHECK(full.queue->available() == kSize);
  CHECK(full.queue->pop().has_value());

  Bench jumped;
  jumped.ring.set_available_index(kSize + 1);
  CHECK(jumped.pop_fault() == QueueFault::kAvailableIndexJumped);
}

TEST_CASE("queue: an available index that goes backwards breaks the queue") {
  Bench bench;
  bench.ring.set_available_index(0xffff);
  CHECK(bench.pop_fault() == QueueFault::kAvailableIndexJumped);
}

TEST_CASE("queue: a head outside the table breaks the queue") {
  Bench bench;
  bench.ring.set_available(kSize);
  CHECK(bench.pop_fault() == QueueFault::kHeadOutOfRange);
}

TEST_CASE("queue: a next outside the table breaks the queue") {
  Bench bench;
  bench.ring.set_descriptor(0, kBuffers, 1, TestQueue::kNext, kSize);
  bench.ring.set_available(0);
  CHECK(bench.pop_fault() == QueueFault::kNextOutOfRange);
}

TEST_CASE("queue: a descriptor loop breaks the queue") {
  Bench bench;
  bench.ring.set_descriptor(0, kBuffers, 1, TestQueue::kNext, 1);
  bench.ring.set_descriptor(1, kBuffers, 1, TestQueue::kNext, 0);
  bench.ring.set_available(0);
  CHECK(bench.pop_fault() == QueueFault::kChainTooLong);
}

TEST_CASE("queue: a loop inside an indirect table breaks the queue") {
  Bench bench;
  put_descriptor(bench.memory, kIndirectTable, kBuffers, 1, TestQueue::kNext, 0);
  bench.ring.set_descriptor(0, kIndirectTable, 16, TestQueue::kIndirect, 0);
  bench.ring.set_available(0);
  CHECK(bench.pop_fault() == QueueFault::kChainTooLong);
}

TEST_CASE("queue: an indirect table inside an indirect table breaks the queue") {
  Bench bench;
  put_descriptor(bench.memory, kIndirectTable, kBuffers, 16, TestQueue::kIndirect, 0);
  bench.ring.set_descriptor(0, kIndirectTable, 16, TestQueue::kIndirect, 0);
  bench.ring.set_available(0);
  CHECK(bench.pop_fault() == QueueFault::kIndirectNested);
}

TEST_CASE("queue: an indirect descriptor with a next one breaks the queue") {
  Bench bench;
  put_descriptor(bench.memory, kIndirectTable, kBuffers, 16, 0, 0);
  bench.ring.set_descriptor(0, kIndirectTable, 16, TestQueue::kIndirect | TestQueue::kNext, 1);
  bench.ring.set_available(0);
  CHECK(bench.pop_fault() == QueueFault::kIndirectNested);
}

TEST_CASE("queue: indirect lengths that are 0 or no multiple of 16 break the queue") {
  for (const std::uint32_t length : {0u, 8u, 17u, 0xffff'ffffu}) {
    Bench bench;
    bench.ring.set_descriptor(0, kIndirectTable, length, TestQueue::kIndirect, 0);
    bench.ring.set_available(0);
    CHECK(bench.pop_fault() == QueueFault::kIndirectLengthInvalid);
  }
}

TEST_CASE("queue: an indirect table of absurd length breaks the queue") {
  Bench bench;
  bench.ring.set_descriptor(0, 0, 0xffff'fff0, TestQueue::kIndirect, 0);
  bench.ring.set_available(0);
  CHECK(bench.pop_fault() == QueueFault::kChainTooLong);
}

TEST_CASE("queue: an indirect table outside memory breaks the queue") {
  Bench bench;
  bench.ring.set_descriptor(0, kRam - 16, 32, TestQueue::kIndirect, 0);
  bench.ring.set_available(0);
  CHECK(bench.pop_fault() == QueueFault::kBufferOutsideMemory);
}

TEST_CASE("queue: indirect without the feature breaks the queue") {
  Bench bench({.indirect = false, .event_index = false});
  put_descriptor(bench.memory, kIndirectTable, kBuffers, 16, 0, 0);
  bench.ring.set_descriptor(0, kIndirectTable, 16, TestQueue::kIndirect, 0);
  bench.ring.set_available(0);
  CHECK(bench.pop_fault() == QueueFault::kIndirectNotNegotiated);
}

TEST_CASE("queue: a readable descriptor after a writable one breaks the queue") {
  Bench bench;
  bench.ring.set_descriptor(0, kBuffers, 4, TestQueue::kWrite | TestQueue::kNext, 1);
  bench.ring.set_descriptor(1, kBuffers, 4, 0, 0);
  bench.ring.set_available(0);
  CHECK(bench.pop_fault() == QueueFault::kReadableAfterWritable);
}

TEST_CASE("queue: buffers that leave memory or wrap around break the queue") {
  for (const Gpa address : {kRam - 3, kRam, Gpa{0xffff'ffff'ffff'fffe}}) {
    Bench bench;
    bench.ring.set_descriptor(0, address, 4, 0, 0);
    bench.ring.set_available(0);
    CHECK(bench.pop_fault() == QueueFault::kBufferOutsideMemory);
  }
}

TEST_CASE("queue: zero-length descriptors carry nothing and name no memory") {
  Bench bench;
  put(bench.memory, kBuffers, "ab");
  bench.ring.set_descriptor(0, 0xffff'ffff'ffff'ffff, 0, TestQueue::kNext, 1);
  bench.ring.set_descriptor(1, kBuffers, 2, TestQueue::kNext, 2);
  bench.ring.set_descriptor(2, 0, 0, TestQueue::kNext | TestQueue::kWrite, 3);
  bench.ring.set_descriptor(3, kBuffers, 1, TestQueue::kWrite, 0);
  bench.ring.set_available(0);
  auto chain = bench.queue->pop();
  REQUIRE(chain.has_value());
  CHECK(read_all(*chain) == "ab");
  CHECK(chain->writable() == 1);
  const std::array<std::byte, 1> byte{std::byte{'X'}};
  CHECK(chain->write(byte) == 1);
  CHECK(guest_string(bench.memory, kBuffers, 1) == "X");
}

TEST_CASE("queue: overlapping descriptors cannot inflate a request beyond 4 GiB") {
  GuestMemory memory(kRam);
  CountingInterrupts interrupts;
  constexpr std::uint16_t size = 8;
  constexpr std::uint32_t entries = 1024;
  for (std::uint32_t i = 0; i < entries; ++i) {
    const std::uint16_t flags = i + 1 < entries ? TestQueue::kNext : 0;
    put_descriptor(memory, 0x4'0000 + 16 * i, 0, kRam, flags, static_cast<std::uint16_t>(i + 1));
  }
  const auto queue = make_split_queue(memory, {size, kDescriptors, kAvailable, kUsed},
                                      {.indirect = true, .event_index = false}, interrupts);
  TestQueue ring(memory, size, kDescriptors, kAvailable, kUsed);
  ring.set_descriptor(0, 0, kRam, TestQueue::kNext, 1);
  for (std::uint16_t i = 1; i < 7; ++i) {
    ring.set_descriptor(i, 0, kRam, TestQueue::kNext, static_cast<std::uint16_t>(i + 1));
  }
  ring.set_descriptor(7, 0x4'0000, 16 * entries, TestQueue::kIndirect, 0);
  ring.set_available(0);
  auto chain = queue->pop();
  REQUIRE(chain.has_value());
  CHECK(chain->readable() == std::uint64_t{entries + 7} * kRam);
  CHECK(chain->readable() < (std::uint64_t{1} << 32));
}

TEST_CASE("queue: a request larger than 4 GiB breaks the queue") {
  constexpr std::uint64_t ram = 64 * 1024 * 1024;
  GuestMemory memory(ram);
  CountingInterrupts interrupts;
  for (std::uint16_t i = 0; i < 65; ++i) {
    put_descriptor(memory, kIndirectTable + 16u * i, 0, ram, TestQueue::kNext,
                   static_cast<std::uint16_t>(i + 1));
  }
  const auto queue = make_split_queue(memory, {8, kDescriptors, kAvailable, kUsed},
                                      {.indirect = true, .event_index = false}, interrupts);
  TestQueue ring(memory, 8, kDescriptors, kAvailable, kUsed);
  ring.set_descriptor(0, kIndirectTable, 16 * 65, TestQueue::kIndirect, 0);
  ring.set_available(0);
  CHECK_FALSE(queue->pop().has_value());
  CHECK(queue->fault() == QueueFault::kBufferTooLarge);
}

TEST_CASE("queue: a broken queue reports once and stays broken when the ring is repaired") {
  Bench bench;
  bench.ring.set_available(kSize);
  bench.pop_fault();
  bench.ring.set_available_index(0);
  bench.ring.set_descriptor(0, kBuffers, 1, 0, 0);
  bench.ring.set_available(0);
  CHECK(bench.pop_fault() == QueueFault::kHeadOutOfRange);
  CHECK(bench.queue->available() == 0);
  CHECK(bench.interrupts.resets_asked == 1);
  CHECK_FALSE(bench.queue->needs_interrupt());
}

TEST_CASE("queue: without the event index the driver's flag decides about interrupts") {
  Bench bench({.indirect = false, .event_index = false});
  bench.ring.set_descriptor(0, kBuffers, 1, 0, 0);
  bench.ring.set_available(0);
  auto first = bench.queue->pop();
  REQUIRE(first.has_value());
  CHECK_FALSE(bench.queue->needs_interrupt());
  bench.queue->push_used(*first, 0);
  CHECK(bench.queue->needs_interrupt());
  CHECK_FALSE(bench.queue->needs_interrupt());
  bench.ring.set_available_flags(1);
  bench.ring.set_available(0);
  auto second = bench.queue->pop();
  REQUIRE(second.has_value());
  bench.queue->push_used(*second, 0);
  CHECK_FALSE(bench.queue->needs_interrupt());
}

TEST_CASE("queue: with the event index only crossing used_event interrupts") {
  Bench bench;
  bench.ring.set_descriptor(0, kBuffers, 1, 0, 0);
  bench.ring.set_used_event(1);
  bench.ring.set_available(0);
  bench.ring.set_available(0);
  bench.ring.set_available(0);
  auto first = bench.queue->pop();
  bench.queue->push_used(*first, 0);
  CHECK_FALSE(bench.queue->needs_interrupt());
  auto second = bench.queue->pop();
  bench.queue->push_used(*second, 0);
  CHECK(bench.queue->needs_interrupt());
  auto third = bench.queue->pop();
  bench.queue->push_used(*third, 0);
  CHECK_FALSE(bench.queue->needs_interrupt());
}

TEST_CASE("queue: popping to the end asks to hear of the next request, stopping early does not") {
  Bench bench;
  bench.ring.set_descriptor(0, kBuffers, 1, 0, 0);
  bench.ring.set_available(0);
  bench.ring.set_available(0);
  CHECK(bench.queue->pop().has_value());
  CHECK(bench.ring.avail_event() == 0);
  bench.queue->request_notification();
  CHECK(bench.ring.avail_event() == 2);
  CHECK(bench.queue->pop().has_value());
  bench.ring.set_available(0);
  CHECK(bench.queue->pop().has_value());
  CHECK_FALSE(bench.queue->pop().has_value());
  CHECK(bench.ring.avail_event() == 3);
}

TEST_CASE("queue: every fault has its own text") {
  CHECK(to_string(QueueFault::kHeadOutOfRange) == "head is outside the descriptor table");
  CHECK(to_string(QueueFault::kBufferTooLarge) == "request is larger than 4 GiB");
}

TEST_CASE("queue checkpoint: a queue goes on in the middle of its ring, popping nothing twice") {
  Bench bench({.indirect = true, .event_index = true});
  for (std::uint16_t i = 0; i < 6; ++i) {
    bench.ring.set_descriptor(i, kBuffers + 64u * i, 1, 0, 0);
    put(bench.memory, kBuffers + 64u * i, std::string(1, static_cast<char>('a' + i)));
    bench.ring.set_available(i);
  }
  for (int i = 0; i < 4; ++i) bench.queue->push_used(*bench.queue->pop(), 0);
  CHECK(bench.queue->needs_interrupt());

  const std::uint16_t event = bench.ring.avail_event();
  auto fork = make_split_queue(bench.memory, bench.layout, {.indirect = true, .event_index = true},
                               bench.interrupts, bench.queue->state());

  CHECK(bench.ring.avail_event() == event);
  CHECK(fork->available() == 2);
  CHECK_FALSE(fork->needs_interrupt());
  auto chain = fork->pop();
  REQUIRE(chain.has_value());
  CHECK(read_all(*chain) == "e");
  fork->push_used(*chain, 0);
  CHECK(bench.ring.used_index() == 5);
}

TEST_CASE("queue checkpoint: used buffers that were not announced are announced in the fork") {
  Bench bench({.indirect = false, .event_index = true});
  bench.ring.set_descriptor(0, kBuffers, 1, 0, 0);
  bench.ring.set_available(0);
  bench.queue->push_used(*bench.queue->pop(), 0);

  auto fork = make_split_queue(bench.memory, bench.layout, {.event_index = true}, bench.interrupts,
                               bench.queue->state());
  CHECK(fork->needs_interrupt());
  CHECK_FALSE(fork->needs_interrupt());
}

TEST_CASE("queue checkpoint: a broken queue stays broken, and says so once") {
  Bench bench;
  bench.ring.set_available(kSize);
  CHECK(bench.pop_fault() == QueueFault::kHeadOutOfRange);

  auto fork =
      make_split_queue(bench.memory, bench.layout, {}, bench.interrupts, bench.queue->state());
  bench.ring.set_available(0);
  CHECK_FALSE(fork->pop().has_value());
  CHECK(fork->fault() == QueueFault::kHeadOutOfRange);
  CHECK(bench.interrupts.resets_asked == 1);
}

TEST_CASE("queue checkpoint: a request that was read in part is found again and goes on there") {
  Bench bench;
  bench.ring.set_descriptor(2, kBuffers, 4, TestQueue::kNext, 5);
  bench.ring.set_descriptor(5, kBuffers + 64, 6, 0, 0);
  put(bench.memory, kBuffers, "0123");
  put(bench.memory, kBuffers + 64, "456789");
  bench.ring.set_available(2);
  auto chain = bench.queue->pop();
  REQUIRE(chain.has_value());
  std::array<std::byte, 5> part;
  CHECK(chain->read(part) == 5);

  auto fork =
      make_split_queue(bench.memory, bench.layout, {}, bench.interrupts, bench.queue->state());
  auto again = fork->retake(chain->state());

  REQUIRE(again.has_value());
  CHECK(again->head() == 2);
  CHECK(again->readable() == 5);
  CHECK(again->state().read == 5);
  CHECK(read_all(*again) == "56789");
  CHECK(fork->available() == 0);
  fork->push_used(*again, 0);
  CHECK(bench.ring.take_used()->id == 2);
}

TEST_CASE("queue checkpoint: a request whose descriptors broke meanwhile breaks the queue") {
  Bench bench;
  bench.ring.set_descriptor(0, kRam, 16, 0, 0);
  const bool taken = bench.queue->retake({.head = 0, .read = 4, .segments = {}}).has_value();
  CHECK_FALSE(taken);
  CHECK(bench.queue->fault() == QueueFault::kBufferOutsideMemory);
  Bench other;
  const bool beyond = other.queue->retake({.head = kSize, .read = 0, .segments = {}}).has_value();
  CHECK_FALSE(beyond);
  CHECK(other.queue->fault() == QueueFault::kHeadOutOfRange);
}

TEST_CASE("queue checkpoint: a request said to be read beyond its end has nothing left") {
  Bench bench;
  bench.ring.set_descriptor(0, kBuffers, 16, 0, 0);
  auto chain = bench.queue->retake({.head = 0, .read = ~std::uint64_t{0}, .segments = {}});
  REQUIRE(chain.has_value());
  CHECK(chain->readable() == 0);
}

}  // namespace
}  // namespace kvitest
