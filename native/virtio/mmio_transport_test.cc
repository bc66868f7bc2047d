#include "native/virtio/mmio_transport.h"

#include <doctest/doctest.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "native/error.h"
#include "native/state/test_checkpoint.h"
#include "native/virtio/blk/blk.h"
#include "native/virtio/features.h"
#include "native/virtio/rng/rng.h"
#include "native/virtio/test_driver.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kBase = 0xe000'0000;
constexpr std::uint32_t kGsi = 17;
constexpr std::uint64_t kStatus = 0x70;
constexpr std::uint64_t kInterruptStatus = 0x60;
constexpr std::uint64_t kInterruptAck = 0x64;
constexpr std::uint64_t kNotify = 0x50;
constexpr std::uint64_t kReady = 0x44;
constexpr std::uint16_t kSize = 8;
constexpr Gpa kDescriptors = 0x1000;
constexpr Gpa kAvailable = 0x2000;
constexpr Gpa kUsed = 0x3000;

std::unique_ptr<VirtioDevice> asked(std::unique_ptr<VirtioDevice> device) {
  const std::vector<std::string> names{"ring_packed", "notification_data"};
  device->ask_for(optional_features(*device, names));
  return device;
}

struct Bench {
  explicit Bench(std::unique_ptr<VirtioDevice> one = asked(make_rng({}))) : device(std::move(one)) {
    transport = make_virtio_mmio(*device, memory, bus, interrupts, kBase, kGsi);
  }

  std::uint64_t read(std::uint64_t at, std::size_t width = 4) {
    std::array<std::byte, 8> bytes;
    bytes.fill(std::byte{0xff});
    bus.read(kBase + at, std::span(bytes).first(width));
    return read_le(std::span(bytes).first(width));
  }
  void write(std::uint64_t at, std::uint64_t value, std::size_t width = 4) {
    std::array<std::byte, 8> bytes{};
    write_le(bytes, value);
    bus.write(kBase + at, std::span(bytes).first(width));
  }

  std::uint64_t features() {
    write(0x14, 0);
    const std::uint64_t low = read(0x10);
    write(0x14, 1);
    return low | read(0x10) << 32;
  }
  void negotiate(std::uint64_t wanted) {
    write(kStatus, 0);
    write(kStatus, 3);
    write(0x24, 0);
    write(0x20, wanted & 0xffff'ffff);
    write(0x24, 1);
    write(0x20, wanted >> 32);
    write(kStatus, 11);
  }
  void set_up_queue(std::uint16_t queue = 0) {
    write(0x30, queue);
    write(0x38, kSize);
    write(0x80, kDescriptors);
    write(0x84, 0);
    write(0x90, kAvailable);
    write(0x94, 0);
    write(0xa0, kUsed);
    write(0xa4, 0);
    write(kReady, 1);
  }
  void start(std::uint64_t wanted = kFeatureVersion1) {
    negotiate(wanted);
    set_up_queue();
    write(kStatus, 15);
  }

  GuestMemory memory{1024 * 1024};
  IoBus bus;
  TestInterrupts interrupts;
  std::unique_ptr<VirtioDevice> device;
  std::unique_ptr<VirtioMmio> transport;
  TestQueue ring{memory, kSize, kDescriptors, kAvailable, kUsed};
};

TEST_CASE("virtio-mmio: it says what it is, and only to words") {
  Bench bench;
  CHECK(bench.read(0x00) == 0x7472'6976);
  CHECK(bench.read(0x04) == 2);
  CHECK(bench.read(0x08) == 4);
  CHECK(bench.read(0x00, 1) == 0);
  CHECK(bench.read(0x02, 2) == 0);
  CHECK(bench.read(0x01, 4) == 0);
  // No shared memory region exists.
  for (const std::uint64_t at : {0xb0, 0xb4, 0xb8, 0xbc}) CHECK(bench.read(at) == 0xffff'ffff);
}

TEST_CASE("virtio-mmio: features are offered in words, and what was asked for is among them") {
  Bench bench;
  CHECK(bench.features() == (kFeatureVersion1 | kFeatureIndirectDesc | kFeatureEventIdx |
                             kFeatureRingPacked | kFeatureNotificationData));
  bench.write(0x14, 2);
  CHECK(bench.read(0x10) == 0);
  Bench usual(make_rng({}));
  CHECK(usual.features() == kUsualTransportFeatures);
}

TEST_CASE("virtio-mmio: features that are not offered are refused") {
  Bench bench(make_rng({}));
  bench.negotiate(kFeatureVersion1 | kFeatureRingPacked);
  CHECK(bench.read(kStatus) == 3);
  bench.negotiate(kFeatureVersion1);
  CHECK(bench.read(kStatus) == 11);
}

TEST_CASE("virtio-mmio: a queue's largest size, and 0 for one that does not exist") {
  Bench bench;
  bench.write(0x30, 0);
  CHECK(bench.read(0x34) == 64);
  for (const std::uint64_t queue : {1u, 0xffffu, 0x1'0000u, 0xffff'ffffu}) {
    bench.write(0x30, queue);
    CHECK(bench.read(0x34) == 0);
    bench.write(kReady, 1);
    CHECK(bench.read(kReady) == 0);
  }
}

TEST_CASE("virtio-mmio: a queue is taken back by QueueReady, before DRIVER_OK and after it") {
  Bench bench;
  bench.negotiate(kFeatureVersion1);
  bench.set_up_queue();
  CHECK(bench.read(kReady) == 1);
  bench.write(kReady, 0);
  CHECK(bench.read(kReady) == 0);
  bench.set_up_queue();
  bench.write(kStatus, 15);
  bench.write(kReady, 0);
  CHECK(bench.read(kReady) == 0);
  bench.ring.set_descriptor(0, 0x8000, 32, TestQueue::kWrite, 0);
  bench.ring.set_available(0);
  bench.write(kNotify, 0);
  CHECK_FALSE(bench.ring.take_used().has_value());
  // Given again it starts over, and finds the request.
  bench.set_up_queue();
  CHECK(bench.read(kReady) == 1);
  CHECK(bench.ring.take_used()->length == 32);
}

TEST_CASE("virtio-mmio: a request is answered; the line is high until it is acknowledged") {
  Bench bench;
  bench.start();
  bench.ring.set_descriptor(0, 0x8000, 16, TestQueue::kWrite, 0);
  bench.ring.set_available(0);
  CHECK(bench.ring.used_index() == 0);
  bench.write(kNotify, 0);
  CHECK(bench.ring.take_used()->length == 16);
  CHECK(bench.read(kInterruptStatus) == 1);
  CHECK(bench.interrupts.line(kGsi));
  bench.write(kInterruptAck, 2);
  CHECK(bench.interrupts.line(kGsi));
  bench.write(kInterruptAck, 1);
  CHECK(bench.read(kInterruptStatus) == 0);
  CHECK_FALSE(bench.interrupts.line(kGsi));
}

TEST_CASE("virtio-mmio: the high half of a notification counts only without NOTIFICATION_DATA") {
  for (const bool data : {false, true}) {
    Bench bench;
    bench.start(kFeatureVersion1 | (data ? kFeatureNotificationData : 0));
    bench.ring.set_descriptor(0, 0x8000, 16, TestQueue::kWrite, 0);
    bench.ring.set_available(0);
    bench.write(kNotify, 0x0001'0000);
    CHECK(bench.ring.used_index() == (data ? 1 : 0));
  }
}

TEST_CASE("virtio-mmio: a broken queue asks for a reset, with a configuration interrupt") {
  Bench bench;
  bench.start();
  bench.ring.set_available(kSize);
  bench.write(kNotify, 0);
  CHECK(bench.read(kStatus) == (15 | kStatusNeedsReset));
  CHECK(bench.read(kInterruptStatus) == 2);
  CHECK(bench.interrupts.line(kGsi));
  bench.write(kStatus, 0);
  CHECK(bench.read(kStatus) == 0);
  CHECK_FALSE(bench.interrupts.line(kGsi));
  CHECK(bench.read(kReady) == 0);
}

TEST_CASE("virtio-mmio: a packed ring is served") {
  Bench bench;
  bench.negotiate(kFeatureVersion1 | kFeatureRingPacked);
  bench.set_up_queue();
  bench.write(kStatus, 15);
  TestQueue ring(bench.memory, kSize, kDescriptors, kAvailable, kUsed, true);
  for (std::uint16_t i = 0; i < 20; ++i) {
    ring.set_descriptor(i % kSize, 0x8000, 24, TestQueue::kWrite, 0);
    ring.set_available(i % kSize);
    bench.write(kNotify, 0);
    const auto used = ring.take_used();
    REQUIRE(used.has_value());
    CHECK(used->id == i % kSize);
    CHECK(used->length == 24);
  }
}

TEST_CASE("virtio-mmio: the device's configuration space, in any width, and its generation") {
  BlkSpec spec;
  spec.name = "disk0";
  spec.backing = MemoryBacking{1 << 20};
  auto blk = make_blk(spec, open_disk(spec.backing, false));
  Blk& disk = *blk;
  Bench bench(std::move(blk));
  CHECK(bench.read(0x08) == 2);
  CHECK(bench.read(0x100, 8) == 2048);
  CHECK(bench.read(0x101, 1) == 8);
  CHECK(bench.read(0xff0, 4) == 0);
  const std::uint64_t before = bench.read(0xfc);
  disk.resize(2 << 20);
  CHECK(bench.read(0xfc) != before);
  CHECK(bench.read(0x100, 8) == 4096);
}

TEST_CASE("virtio-mmio checkpoint: registers, the line and the rings go on in a fork") {
  Bench bench;
  bench.start(kFeatureVersion1 | kFeatureIndirectDesc);
  bench.ring.set_descriptor(0, 0x8000, 16, TestQueue::kWrite, 0);
  bench.ring.set_available(0);
  bench.write(kNotify, 0);
  const std::vector<std::byte> state = saved(*bench.transport);

  Bench fork;
  std::vector<std::byte> memory(bench.memory.size());
  REQUIRE(bench.memory.read(0, memory));
  REQUIRE(fork.memory.write(0, memory));
  load(*fork.transport, state);
  CHECK_FALSE(fork.interrupts.line(kGsi));
  fork.transport->resume();
  CHECK(fork.interrupts.line(kGsi));
  for (const std::uint64_t at : {kStatus, kInterruptStatus, kReady}) {
    CHECK(fork.read(at) == bench.read(at));
  }
  TestQueue ring(fork.memory, bench.ring);
  CHECK(ring.take_used().has_value());
  ring.set_available(0);
  fork.write(kNotify, 0);
  CHECK(ring.take_used().has_value());
}

TEST_CASE("virtio-mmio: two transports at one place are refused") {
  Bench bench;
  const auto other = make_rng({});
  CHECK_THROWS_AS(
      make_virtio_mmio(*other, bench.memory, bench.bus, bench.interrupts, kBase + 0x800, kGsi),
      Error);
}

}  // namespace
}  // namespace kvitest
