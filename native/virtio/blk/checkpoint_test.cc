// A disk in checkpoints, and one whose requests take their time.
#include <doctest/doctest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "native/state/test_checkpoint.h"
#include "native/virtio/blk/test_blk.h"

namespace kvitest {
namespace {

// A disk whose writes wait at a gate, on threads of the device.
class GatedDisk : public Disk {
 public:
  explicit GatedDisk(std::unique_ptr<Disk> disk) : disk_(std::move(disk)) {}
  std::uint64_t size() const override { return disk_->size(); }
  bool may_wait() const override { return true; }
  void read(std::uint64_t offset, std::span<std::byte> out) override {
    {
      const std::lock_guard lock(mutex_);
      ++reads_;
      changed_.notify_all();
    }
    disk_->read(offset, out);
  }
  void write(std::uint64_t offset, std::span<const std::byte> in) override {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
    --waiting_;
    ++writes_;
    disk_->write(offset, in);
  }
  void zero(std::uint64_t, std::uint64_t, bool) override {}
  void flush() override {}
  void resize(std::uint64_t bytes) override { disk_->resize(bytes); }
  std::shared_ptr<const DiskImage> image() override { return disk_->image(); }

  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  // Until so many writes are at the gate.
  void wait_for(int writes) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_ >= writes; });
  }
  // Until so many reads have begun.
  void wait_for_reads(int reads) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return reads_ >= reads; });
  }
  int writes() {
    const std::lock_guard lock(mutex_);
    return writes_;
  }

 private:
  std::unique_ptr<Disk> disk_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int waiting_ = 0;
  int reads_ = 0;
  int writes_ = 0;
};

struct Gated {
  explicit Gated(const BlkSpec& spec = memory_disk(1 << 20))
      : Gated(spec, std::make_unique<GatedDisk>(open_disk(spec.backing, false))) {}
  Gated(const BlkSpec& spec, std::unique_ptr<GatedDisk> owned)
      : gate(*owned), blk(spec, std::move(owned)) {}
  // Nothing may wait for ever, whatever a test finds.
  ~Gated() { gate.open(); }
  GatedDisk& gate;
  TestBlk blk;
};

// What the driver's queue gives back until `count` requests came; by polling the used ring, as the
// device's own threads fill it.
std::vector<std::uint32_t> take_used(TestBlk& blk, std::size_t count) {
  std::vector<std::uint32_t> heads;
  while (heads.size() < count) {
    if (const auto used = blk.driver.queue(0).take_used()) {
      heads.push_back(used->id);
    } else {
      std::this_thread::yield();
    }
  }
  return heads;
}

// A fork of `parent` as a machine makes one: its memory, its device's state, its disk's content.
std::unique_ptr<TestBlk> fork(TestBlk& parent, const BlkSpec& spec = memory_disk(1 << 20)) {
  parent.device->pause();
  auto child = std::make_unique<TestBlk>(spec, make_overlay(parent.device->disk().image()));
  child->board.copy_memory(parent.board);
  load(child->board, saved(parent.board));
  child->driver.adopt(parent.driver);
  child->next_ = parent.next_;
  parent.device->unpause();
  return child;
}

TEST_CASE(
    "blk workers: the doorbell returns while the disk is busy, and the requests are answered") {
  Gated gated;
  TestBlk& blk = gated.blk;
  blk.driver.start(TestBlk::kAll);
  const auto first = blk.offer(TestBlk::kOut, 0, pattern(512, 1), 0);
  const auto second = blk.offer(TestBlk::kOut, 1, pattern(512, 2), 0);
  blk.driver.notify(0);
  // Both at once: one slow request does not hold the next.
  gated.gate.wait_for(2);
  CHECK(blk.driver.queue(0).used_index() == 0);
  gated.gate.open();
  const auto heads = take_used(blk, 2);
  CHECK(heads[0] + heads[1] == first.head + second.head);
  CHECK(blk.board.memory.load<std::uint8_t>(first.status) == TestBlk::kOk);
  CHECK(blk.board.memory.load<std::uint8_t>(second.status) == TestBlk::kOk);
  CHECK(blk.on_disk(0, 512) == pattern(512, 1));
  blk.device->pause();
  CHECK(blk.board.interrupts.take_messages(1) >= 1);
}

TEST_CASE(
    "blk workers: a reset waits for what is under way, and nothing touches the ring after it") {
  Gated gated;
  TestBlk& blk = gated.blk;
  blk.driver.start(TestBlk::kAll);
  blk.offer(TestBlk::kOut, 0, pattern(512, 1), 0);
  blk.driver.notify(0);
  gated.gate.wait_for(1);
  std::atomic<bool> reset_done{false};
  std::thread resetter([&] {
    blk.driver.reset();
    reset_done = true;
  });
  // The gate is closed, so a reset that returns has not waited.
  std::this_thread::yield();
  CHECK_FALSE(reset_done);
  gated.gate.open();
  resetter.join();
  const std::uint16_t used = blk.driver.queue(0).used_index();
  blk.driver.notify(0);
  CHECK(blk.driver.queue(0).used_index() == used);
  CHECK(gated.gate.writes() == 1);
  blk.next_.clear();
  REQUIRE(blk.driver.start(TestBlk::kAll) == 0x0f);
  blk.offer(TestBlk::kOut, 0, pattern(512, 3), 0);
  blk.driver.notify(0);
  take_used(blk, 1);
  CHECK(blk.on_disk(0, 512) == pattern(512, 3));
}

TEST_CASE("blk workers: one queue's reset waits for its own requests, and the others go on") {
  BlkSpec spec = memory_disk(1 << 20);
  spec.queues = 2;
  Gated gated(spec);
  GatedDisk& gate = gated.gate;
  TestBlk& blk = gated.blk;
  blk.device->ask_for(kFeatureRingReset);
  REQUIRE(blk.driver.start(TestBlk::kAll | kBlkMultiqueue | kFeatureRingReset) == 0x0f);
  blk.offer(TestBlk::kOut, 0, pattern(512, 1), 0, 0);
  blk.driver.notify(0);
  gate.wait_for(1);
  std::atomic<bool> reset_done{false};
  std::thread resetter([&] {
    blk.driver.reset_queue(0);
    reset_done = true;
  });
  // Meanwhile the other queue is served. Reads do not wait at the gate.
  const auto other = blk.offer(TestBlk::kIn, 0, {}, 512, 1);
  blk.driver.notify(1);
  CHECK(blk.wait_for(other, 1).status == TestBlk::kOk);
  CHECK_FALSE(reset_done);
  gate.open();
  resetter.join();
  const std::uint16_t used = blk.driver.queue(0).used_index();
  blk.offer(TestBlk::kOut, 8, pattern(512, 2), 0, 0);
  blk.driver.notify(0);
  blk.device->pause();
  CHECK(blk.driver.queue(0).used_index() == used);
  CHECK(gate.writes() == 1);
  blk.device->unpause();
  blk.next_[0] = 0;
  REQUIRE(blk.driver.set_up_again(0, 8) == 1);
  blk.offer(TestBlk::kOut, 0, pattern(512, 3), 0);
  blk.driver.notify(0);
  take_used(blk, 1);
  CHECK(blk.on_disk(0, 512) == pattern(512, 3));
}

TEST_CASE("blk workers: with IN_ORDER answers wait for the request before them") {
  for (const std::uint64_t order : {std::uint64_t{0}, kFeatureInOrder}) {
    BlkSpec spec = memory_disk(1 << 20);
    spec.queues = 2;
    Gated gated(spec);
    TestBlk& blk = gated.blk;
    blk.device->ask_for(kFeatureInOrder);
    REQUIRE(blk.driver.start(TestBlk::kAll | kBlkMultiqueue | order) == 0x0f);
    // Three of the four threads wait at the gate, so that one does the reads, which do not: when it
    // has begun the second, the first is done.
    const auto slow = blk.offer(TestBlk::kOut, 0, pattern(512, 1), 0);
    blk.driver.notify(0);
    for (unsigned i = 1; i < 3; ++i) blk.offer(TestBlk::kOut, i, pattern(512, 1), 0, 1);
    blk.driver.notify(1);
    gated.gate.wait_for(3);
    const auto fast = blk.offer(TestBlk::kIn, 64, {}, 512);
    blk.driver.notify(0);
    gated.gate.wait_for_reads(1);
    blk.offer(TestBlk::kIn, 64, {}, 512, 1);
    blk.driver.notify(1);
    gated.gate.wait_for_reads(2);
    if (order == 0) {
      CHECK(take_used(blk, 1).at(0) == fast.head);
      gated.gate.open();
      CHECK(take_used(blk, 1).at(0) == slow.head);
      continue;
    }
    CHECK(blk.driver.queue(0).used_index() == 0);
    gated.gate.open();
    while (blk.driver.queue(0).used_index() != 2) std::this_thread::yield();
    // One element for both, at the place of the first, which was used completely.
    CHECK(blk.driver.queue(0).take_used()->id == fast.head);
  }
}

TEST_CASE("blk workers: paused, nothing is taken from the ring until it is unpaused") {
  TestBlk blk;
  blk.driver.start(TestBlk::kAll);
  blk.device->pause();
  blk.offer(TestBlk::kOut, 0, pattern(512, 1), 0);
  // This disk would answer on its doorbell.
  blk.driver.notify(0);
  CHECK(blk.driver.queue(0).used_index() == 0);
  blk.device->unpause();
  take_used(blk, 1);
  CHECK(blk.on_disk(0, 512) == pattern(512, 1));
}

TEST_CASE("blk checkpoint: requests in flight complete exactly once in each fork and the parent") {
  Gated gated;
  TestBlk& blk = gated.blk;
  blk.driver.start(TestBlk::kAll);
  // Five for four threads: one is still in the ring when the others are under way.
  for (unsigned i = 0; i < 5; ++i) blk.offer(TestBlk::kOut, i, pattern(512, i), 0);
  blk.driver.notify(0);
  gated.gate.wait_for(4);
  std::unique_ptr<TestBlk> first;
  std::unique_ptr<TestBlk> second;
  std::thread forker([&] {
    first = fork(blk);
    second = fork(blk);
  });
  gated.gate.open();
  forker.join();
  first->board.resume();
  second->board.resume();
  for (TestBlk* one : {&blk, first.get(), second.get()}) {
    std::vector<std::uint32_t> heads = take_used(*one, 5);
    std::ranges::sort(heads);
    CHECK(heads == std::vector<std::uint32_t>{0, 3, 6, 9, 12});
    one->device->pause();
    CHECK(one->driver.queue(0).used_index() == 5);
    one->device->unpause();
    for (unsigned i = 0; i < 5; ++i) CHECK(one->on_disk(i * 512, 512) == pattern(512, i));
  }
}

TEST_CASE("blk checkpoint: what one guest writes after it no other sees") {
  TestBlk blk;
  blk.driver.start(TestBlk::kAll);
  blk.request(TestBlk::kOut, 0, pattern(1024, 1));
  const auto child = fork(blk);
  child->board.resume();
  child->request(TestBlk::kOut, 0, pattern(512, 2));
  const auto grandchild = fork(*child);
  grandchild->board.resume();
  blk.request(TestBlk::kOut, 1, pattern(512, 3));
  grandchild->request(TestBlk::kOut, 1, pattern(512, 4));

  const auto sector = [](TestBlk& one, std::uint64_t number) {
    return one.request(TestBlk::kIn, number, {}, 512).data;
  };
  const Bytes begun = pattern(1024, 1);
  const Bytes second_sector(begun.begin() + 512, begun.end());
  CHECK(sector(blk, 0) == Bytes(begun.begin(), begun.begin() + 512));
  CHECK(sector(blk, 1) == pattern(512, 3));
  CHECK(sector(*child, 0) == pattern(512, 2));
  CHECK(sector(*child, 1) == second_sector);
  CHECK(sector(*grandchild, 0) == pattern(512, 2));
  CHECK(sector(*grandchild, 1) == pattern(512, 4));
}

TEST_CASE("blk checkpoint: size, cache mode and a serial of its own") {
  TestBlk blk;
  blk.driver.start(TestBlk::kAll);
  blk.device->resize(2 << 20);
  blk.board.set_mmio(TestBoard::kDevice + 32, 1, 0);
  BlkSpec spec = memory_disk(1 << 20);
  spec.serial = "other";
  const auto child = fork(blk, spec);
  child->board.resume();
  CHECK(child->config(0, 8) == 4096);
  CHECK(child->config(32, 1) == 0);
  CHECK(child->device->config_generation() == blk.device->config_generation());
  CHECK(child->request(TestBlk::kGetId, 0, {}, 5).data ==
        Bytes{std::byte{'o'}, std::byte{'t'}, std::byte{'h'}, std::byte{'e'}, std::byte{'r'}});
}

TEST_CASE("blk checkpoint: another version and another size are refused") {
  TestBlk blk;
  blk.driver.start(TestBlk::kAll);
  const std::vector<std::byte> bytes = saved(blk.board);
  TestBlk same;
  CHECK(refusal(same.board, with_version(bytes, "virtio-blk", 2))
            .find("section virtio-blk: it has version 2") != std::string::npos);
  TestBlk other(memory_disk(1 << 16));
  CHECK(refusal(other.board, bytes).find("a disk of 1048576 bytes, this one has 65536") !=
        std::string::npos);
}

TEST_CASE("blk checkpoint: cut or changed anywhere it is refused or harmless") {
  TestBlk blk;
  blk.driver.start(TestBlk::kAll);
  blk.request(TestBlk::kOut, 0, pattern(512, 1));
  const std::vector<std::byte> bytes = saved(blk.board);
  std::size_t refused = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    TestBlk cut;
    refused += refusal(cut.board, std::span(bytes).first(at)).empty() ? 0 : 1;
    std::vector<std::byte> changed = bytes;
    changed[at] ^= std::byte{0x41};
    TestBlk child;
    if (!refusal(child.board, changed).empty()) continue;
    child.board.copy_memory(blk.board);
    child.board.resume();
  }
  CHECK(refused == bytes.size());
}

}  // namespace
}  // namespace kvitest
