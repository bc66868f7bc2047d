#include "native/virtio/rng/rng.h"

#include <doctest/doctest.h>

#include <set>
#include <string>

#include "native/virtio/test_driver.h"

namespace kvitest {
namespace {

struct Bench {
  std::unique_ptr<VirtioDevice> device = make_rng({});
  TestBoard board{*device};
  TestDriver driver{board};
};

TEST_CASE("rng: a request comes back full of bytes that differ from the last ones") {
  Bench bench;
  REQUIRE(bench.driver.start(TestDriver::kTransportFeatures) == 0x0f);
  bench.driver.offer(0, 4096);
  bench.driver.offer(0, 4096);
  const auto first = bench.driver.receive(0);
  const auto second = bench.driver.receive(0);
  REQUIRE(first.has_value());
  REQUIRE(second.has_value());
  CHECK(first->size() == 4096);
  CHECK(second->size() == 4096);
  CHECK(*first != *second);
  // 4096 random bytes miss more than 56 of 256 values with a probability far below 10^-30.
  CHECK(std::set<char>(first->begin(), first->end()).size() > 200);
  CHECK(bench.board.interrupts.take_messages(1) >= 1);
}

TEST_CASE("rng: a request larger than 64 KiB is answered in part") {
  Bench bench;
  bench.driver.start(TestDriver::kTransportFeatures);
  bench.driver.offer(0, 100'000);
  const auto bytes = bench.driver.receive(0);
  REQUIRE(bytes.has_value());
  CHECK(bytes->size() == 65536);
}

TEST_CASE("rng: a request without a writable buffer comes back empty") {
  Bench bench;
  bench.driver.start(TestDriver::kTransportFeatures);
  bench.driver.send(0, "not for you");
  const auto used = bench.driver.queue(0).take_used();
  REQUIRE(used.has_value());
  CHECK(used->length == 0);
}

TEST_CASE("rng: only the bytes the driver offered are written") {
  Bench bench;
  bench.driver.start(TestDriver::kTransportFeatures);
  const Gpa at = bench.driver.allocate(32);
  TestQueue& ring = bench.driver.queue(0);
  ring.set_descriptor(0, at + 8, 16, TestQueue::kWrite, 0);
  ring.set_available(0);
  bench.driver.notify(0);
  CHECK(ring.take_used()->length == 16);
  CHECK(bench.board.memory.load<std::uint64_t>(at) == 0);
  CHECK(bench.board.memory.load<std::uint64_t>(at + 24) == 0);
}

TEST_CASE("rng: works again after each of a hundred resets") {
  Bench bench;
  int answered = 0;
  for (int i = 0; i < 100; ++i) {
    REQUIRE(bench.driver.start(TestDriver::kTransportFeatures) == 0x0f);
    bench.driver.offer(0, 64);
    answered += bench.driver.receive(0).has_value() ? 1 : 0;
  }
  CHECK(answered == 100);
}

}  // namespace
}  // namespace kvitest
