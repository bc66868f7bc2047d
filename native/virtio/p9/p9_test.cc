// The device behind its transport, with a driver.
#include "native/virtio/p9/p9.h"

#include <doctest/doctest.h>

#include <chrono>
#include <optional>
#include <thread>

#include "native/virtio/p9/test_p9.h"
#include "native/virtio/test_driver.h"

namespace kvitest {
namespace {

// One request and its answer in a chain of two.
struct TestP9 {
  explicit TestP9(const std::string& path) : device(make_p9({.tag = "share", .path = path})) {
    driver.start(TestDriver::kTransportFeatures | 1);
  }

  Bytes ask(P9Request& request, std::uint32_t room = 8192) {
    const Bytes bytes = request.take();
    const Gpa out = driver.allocate(bytes.size());
    const Gpa in = driver.allocate(room);
    REQUIRE(board.memory.write(out, bytes));
    TestQueue& ring = driver.queue(0);
    ring.set_descriptor(0, out, static_cast<std::uint32_t>(bytes.size()), TestQueue::kNext, 1);
    ring.set_descriptor(1, in, room, TestQueue::kWrite, 0);
    ring.set_available(0);
    driver.notify(0);
    const auto used = wait();
    Bytes answer(used.length);
    REQUIRE(board.memory.read(in, answer));
    return answer;
  }

  TestQueue::Used wait() {
    for (int i = 0; i < 20'000; ++i) {
      if (const auto used = driver.queue(0).take_used()) return *used;
      std::this_thread::sleep_for(std::chrono::microseconds(500));
    }
    FAIL("no answer");
    return {};
  }

  void start() {
    ask(P9Request(P9Type::kVersion).u32(8192).string("9P2000.L"));
    ask(P9Request(P9Type::kAttach).u32(0).u32(0xffff'ffff).string("").string("").u32(0));
  }

  std::unique_ptr<VirtioDevice> device;
  TestBoard board{*device};
  TestDriver driver{board};
};

TEST_CASE("virtio-9p: the tag is in the configuration space, which ends with it") {
  TestTree tree;
  TestP9 one(tree.inside());
  CHECK(one.board.mmio(TestBoard::kDevice, 2) == 5);
  std::string tag;
  for (int i = 0; i < 6; ++i) {
    tag.push_back(static_cast<char>(one.board.mmio(TestBoard::kDevice + 2u + i, 1)));
  }
  CHECK(tag == std::string("share\0", 6));
}

TEST_CASE("virtio-9p: requests are answered through the ring, by a thread") {
  TestTree tree;
  TestP9 one(tree.inside());
  one.start();
  const Bytes walked = one.ask(P9Request(P9Type::kWalk, 7).u32(0).u32(1).u16(1).string("hello"));
  CHECK(std::to_integer<int>(walked.at(4)) == 111);
  CHECK(load_le<std::uint16_t>(walked, 5) == 7);
  one.ask(P9Request(P9Type::kOpen).u32(1).u32(0));
  const Bytes read = one.ask(P9Request(P9Type::kRead).u32(1).u64(0).u32(5));
  CHECK(read.size() == kP9ReadBytes + 5);
  CHECK(std::to_integer<char>(read.back()) == 'o');
  // No room for an answer, not even for an error: the buffers come back as they were.
  CHECK(one.ask(P9Request(P9Type::kClunk).u32(1), 10).empty());
}

TEST_CASE("virtio-9p: a reset forgets every fid, and the driver begins anew") {
  TestTree tree;
  TestP9 one(tree.inside());
  one.start();
  one.driver.reset();
  one.driver.start(TestDriver::kTransportFeatures | 1);
  const Bytes early = one.ask(P9Request(P9Type::kClunk).u32(0));
  CHECK(load_le<std::uint32_t>(early, 7) == EPROTO);
  one.start();
  CHECK(std::to_integer<int>(one.ask(P9Request(P9Type::kClunk).u32(0)).at(4)) == 121);
}

TEST_CASE("virtio-9p: paused, nothing is taken from the ring until it is unpaused") {
  TestTree tree;
  TestP9 one(tree.inside());
  one.start();
  one.device->pause();
  const Bytes bytes = P9Request(P9Type::kClunk).u32(0).take();
  const Gpa out = one.driver.allocate(bytes.size());
  REQUIRE(one.board.memory.write(out, bytes));
  one.driver.queue(0).set_descriptor(0, out, static_cast<std::uint32_t>(bytes.size()), 1, 1);
  one.driver.queue(0).set_descriptor(1, one.driver.allocate(64), 64, TestQueue::kWrite, 0);
  one.driver.queue(0).set_available(0);
  one.driver.notify(0);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(!one.driver.queue(0).take_used());
  one.device->unpause();
  CHECK(one.wait().length == kP9HeaderBytes);
}

}  // namespace
}  // namespace kvitest
