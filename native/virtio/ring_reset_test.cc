// One queue reset alone (virtio 1.3, 2.6.1, 4.1.4.3, 4.2.2), on the transports and in the devices.
#include <doctest/doctest.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "native/error.h"
#include "native/net/peer.h"
#include "native/state/test_checkpoint.h"
#include "native/virtio/features.h"
#include "native/virtio/mmio_transport.h"
#include "native/virtio/net/test_net.h"
#include "native/virtio/rng/rng.h"
#include "native/virtio/test_driver.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kQueueEnable = 28;
constexpr std::uint64_t kQueueVector = 26;

std::unique_ptr<VirtioDevice> asked(std::unique_ptr<VirtioDevice> device) {
  const std::vector<std::string> names{"ring_reset", "ring_packed"};
  device->ask_for(optional_features(*device, names));
  return device;
}

struct RngBench {
  std::unique_ptr<VirtioDevice> rng = asked(make_rng({}));
  TestBoard board{*rng};
  TestDriver driver{board};
};

constexpr std::uint64_t kAll = TestDriver::kTransportFeatures | kFeatureRingReset;

TEST_CASE("ring reset: the queue's registers and its vector are as at first, the device goes on") {
  RngBench bench;
  TestDriver& driver = bench.driver;
  REQUIRE(driver.start(kAll) == 0x0f);
  driver.offer(0, 64);
  CHECK(driver.receive(0)->size() == 64);
  CHECK(bench.board.mmio(kQueueVector, 2) == 1);
  bench.board.interrupts.take_messages(1);

  driver.reset_queue(0);
  CHECK(bench.board.mmio(TestDriver::kQueueReset, 2) == 0);
  CHECK(bench.board.mmio(kQueueEnable, 2) == 0);
  CHECK(bench.board.mmio(24, 2) == 64);  // the largest size
  for (const std::uint64_t area : {32, 40, 48}) CHECK(bench.board.mmio(area, 8) == 0);
  CHECK(bench.board.mmio(kQueueVector, 2) == kNoVector);
  CHECK(driver.status() == 0x0f);
  // Nothing is taken from it, and nobody told of it.
  driver.offer(0, 64);
  CHECK_FALSE(driver.receive(0).has_value());
  CHECK(bench.board.interrupts.take_messages(1) == 0);
}

TEST_CASE("ring reset: a queue comes back in another size and place, its positions at the start") {
  for (const std::uint64_t ring : {std::uint64_t{0}, kFeatureRingPacked}) {
    RngBench bench;
    TestDriver& driver = bench.driver;
    REQUIRE(driver.start(kAll | ring) == 0x0f);
    for (int i = 0; i < 3; ++i) driver.offer(0, 64);
    while (driver.receive(0)) {
    }
    for (const std::uint16_t size : {4, 64, 8}) {
      driver.reset_queue(0);
      REQUIRE(driver.set_up_again(0, size) == 1);
      for (int i = 0; i < 9; ++i) {
        driver.offer(0, 16);
        CHECK(driver.receive(0).value_or("").size() == 16);
      }
      CHECK(bench.board.interrupts.take_messages(1) >= 1);
    }
    CHECK(driver.status() == 0x0f);
  }
}

TEST_CASE("ring reset: what the driver filled before it enabled the queue is looked at") {
  RngBench bench;
  TestDriver& driver = bench.driver;
  REQUIRE(driver.start(kAll) == 0x0f);
  driver.reset_queue(0);
  driver.lay_out_again(0, 8);
  driver.offer(0, 16);
  CHECK_FALSE(driver.receive(0).has_value());
  bench.board.set_mmio(kQueueEnable, 2, 1);
  CHECK(driver.receive(0)->size() == 16);
}

TEST_CASE(
    "ring reset: without the feature, before it is agreed on or of no queue it does nothing") {
  RngBench bench;
  TestDriver& driver = bench.driver;
  REQUIRE(driver.start(TestDriver::kTransportFeatures) == 0x0f);
  driver.reset_queue(0);
  CHECK(bench.board.mmio(kQueueEnable, 2) == 1);
  driver.offer(0, 64);
  CHECK(driver.receive(0)->size() == 64);

  REQUIRE(driver.start(kAll) == 0x0f);
  driver.reset_queue(7);
  driver.select(0);
  bench.board.set_mmio(TestDriver::kQueueReset, 2, 0);
  bench.board.set_mmio(TestDriver::kQueueReset, 4, 1);
  CHECK(bench.board.mmio(kQueueEnable, 2) == 1);
  CHECK(bench.board.mmio(kQueueVector, 2) == 1);
}

TEST_CASE("ring reset: a queue that was never enabled is not enabled after DRIVER_OK") {
  RngBench bench;
  TestDriver& driver = bench.driver;
  driver.negotiate(kAll);
  driver.add_status(kStatusDriverOk);
  driver.reset_queue(0);
  CHECK(driver.enable_queue(0, 8, 0x1000, 0x2000, 0x3000) == 0);
}

TEST_CASE("ring reset: one that comes back where no ring can be asks for a reset of the device") {
  RngBench bench;
  TestDriver& driver = bench.driver;
  REQUIRE(driver.start(kAll) == 0x0f);
  driver.reset_queue(0);
  CHECK(driver.enable_queue(0, 8, TestBoard::kRam, 0x2000, 0x3000) == 0);
  CHECK((driver.status() & kStatusNeedsReset) != 0);
}

TEST_CASE(
    "ring reset checkpoint: a queue that was reset is so in a fork, and may come back there") {
  RngBench parent;
  REQUIRE(parent.driver.start(kAll) == 0x0f);
  parent.driver.reset_queue(0);
  RngBench child;
  child.board.copy_memory(parent.board);
  load(child.board, saved(parent.board));
  child.driver.adopt(parent.driver);
  child.driver.offer(0, 16);
  CHECK_FALSE(child.driver.receive(0).has_value());
  REQUIRE(child.driver.set_up_again(0, 8) == 1);
  child.driver.offer(0, 16);
  CHECK(child.driver.receive(0)->size() == 16);
}

TEST_CASE("ring reset: virtio-mmio resets the selected queue by QueueReset") {
  const std::unique_ptr<VirtioDevice> rng = asked(make_rng({}));
  GuestMemory memory(1 << 20);
  IoBus bus;
  TestInterrupts interrupts;
  const auto transport = make_virtio_mmio(*rng, memory, bus, interrupts, 0xe000'0000, 17);
  const auto write = [&](std::uint64_t at, std::uint64_t value) {
    std::array<std::byte, 4> bytes{};
    write_le(bytes, value);
    bus.write(0xe000'0000 + at, bytes);
  };
  const auto read = [&](std::uint64_t at) {
    std::array<std::byte, 4> bytes{};
    bus.read(0xe000'0000 + at, bytes);
    return read_le(bytes);
  };
  const auto set_up = [&](std::uint64_t size) {
    for (const auto& [at, value] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
             {0x30, 0}, {0x38, size}, {0x80, 0x1000}, {0x90, 0x2000}, {0xa0, 0x3000}, {0x44, 1}}) {
      write(at, value);
    }
  };
  write(0x70, 3);
  write(0x24, 1);
  write(0x20, (kFeatureVersion1 | kFeatureRingReset) >> 32);
  write(0x70, 11);
  set_up(8);
  write(0x70, 15);
  const auto answered = [&](std::uint16_t size) {
    TestQueue ring(memory, size, 0x1000, 0x2000, 0x3000);
    ring.set_descriptor(0, 0x8000, 32, TestQueue::kWrite, 0);
    ring.set_available(0);
    write(0x50, 0);
    return ring.take_used().has_value();
  };
  CHECK(answered(8));
  write(0xc0, 1);
  CHECK(read(0xc0) == 0);
  CHECK(read(0x44) == 0);
  CHECK(read(0x70) == 15);
  REQUIRE(memory.fill(0x1000, std::byte{0}, 0x3000));
  CHECK_FALSE(answered(4));
  REQUIRE(memory.fill(0x1000, std::byte{0}, 0x3000));
  set_up(4);
  CHECK(read(0x44) == 1);
  CHECK(answered(4));
}

TEST_CASE("ring reset: net lets go of the buffers that it held, and receives into the new ones") {
  NetBench bench;
  bench.net->ask_for(kFeatureRingReset);
  bench.start(kNetMrgRxbuf | kFeatureRingReset);
  // Too small for the answer: it is held until there are more.
  bench.driver.offer(kReceive, kNetHeader);
  bench.send(udp(1000, kPortEcho, bytes(std::string(600, 'a'))));
  CHECK_FALSE(bench.receive().has_value());
  bench.driver.reset_queue(kReceive);
  REQUIRE(bench.driver.set_up_again(kReceive, 16) == 1);
  bench.send(udp(1000, kPortEcho, bytes("behind it")));
  bench.driver.offer(kReceive, 2048);
  bench.driver.offer(kReceive, 2048);
  const auto first = bench.receive().value_or("");
  CHECK(first.substr(0, kNetHeader) == std::string(10, '\0') + number(1, 2));
  CHECK(first.ends_with(std::string(600, 'a')));
  CHECK(bench.receive().value_or("").ends_with("behind it"));

  bench.driver.reset_queue(kTransmit);
  REQUIRE(bench.driver.set_up_again(kTransmit, 4) == 1);
  bench.driver.offer(kReceive, 2048);
  bench.send(udp(1000, kPortEcho, bytes("from a ring of four")));
  CHECK(bench.receive().value_or("").ends_with("from a ring of four"));
}

}  // namespace
}  // namespace kvitest
