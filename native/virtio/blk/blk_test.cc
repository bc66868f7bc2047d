#include "native/virtio/blk/blk.h"

#include <doctest/doctest.h>

#include <string>

#include "native/error.h"
#include "native/virtio/blk/test_blk.h"
#include "native/virtio/features.h"

namespace kvitest {
namespace {

using Answer = TestBlk::Answer;

std::string text(const Bytes& bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += static_cast<char>(byte);
  return text;
}

std::string error_of(auto action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("blk: what was written is read back, and lies on the disk where the driver said") {
  TestBlk blk;
  REQUIRE(blk.driver.start(TestBlk::kAll) == 0x0f);
  const Bytes bytes = pattern(3 * 512, 1);
  CHECK(blk.request(TestBlk::kOut, 7, bytes).status == TestBlk::kOk);
  const Answer answer = blk.request(TestBlk::kIn, 7, {}, 3 * 512);
  CHECK(answer.status == TestBlk::kOk);
  CHECK(answer.data == bytes);
  CHECK(answer.used == 3 * 512 + 1);
  CHECK(blk.on_disk(7 * 512, 3 * 512) == bytes);
  CHECK(blk.on_disk(0, 7 * 512) == Bytes(7 * 512));
  CHECK(blk.board.interrupts.take_messages(1) >= 1);
}

TEST_CASE("blk: the configuration space says what the disk is") {
  BlkSpec spec = memory_disk(1 << 20);
  spec.block_size = 1024;
  spec.queues = 2;
  TestBlk blk(spec);
  CHECK(blk.config(0, 8) == 2048);     // capacity
  CHECK(blk.config(8, 4) == 1 << 20);  // size_max
  CHECK(blk.config(12, 4) == 14);      // seg_max
  CHECK(blk.config(20, 4) == 1024);    // blk_size
  CHECK(blk.config(24, 1) == 2);       // physical_block_exp: 4096
  CHECK(blk.config(26, 2) == 4);       // min_io_size
  CHECK(blk.config(28, 4) == 64);      // opt_io_size
  CHECK(blk.config(32, 1) == 1);       // writeback
  CHECK(blk.config(34, 2) == 2);       // num_queues
  CHECK(blk.config(36, 4) == kBlkMaxRangeSectors);
  CHECK(blk.config(40, 4) == kBlkMaxRanges);
  CHECK(blk.config(44, 4) == 8);
  CHECK(blk.config(56, 1) == 1);
  CHECK(blk.config(60, 4) == 0);
  CHECK(blk.driver.device_features() == (TestBlk::kAll | kBlkMultiqueue));
}

TEST_CASE("blk: the serial is 20 bytes with zeros behind it, or as many as there is room for") {
  TestBlk blk;
  blk.driver.start(TestBlk::kAll);
  const Answer whole = blk.request(TestBlk::kGetId, 0, {}, 20);
  CHECK(whole.status == TestBlk::kOk);
  CHECK(whole.used == 21);
  CHECK(text(whole.data) == "serial-0" + std::string(12, '\0'));
  CHECK(text(blk.request(TestBlk::kGetId, 0, {}, 3).data) == "ser");
  const Answer longer = blk.request(TestBlk::kGetId, 0, {}, 30);
  CHECK(text(longer.data) == "serial-0" + std::string(22, '\0'));
  CHECK(longer.used == 31);
}

TEST_CASE("blk: a request that leaves the disk or cuts a sector fails and does nothing") {
  TestBlk blk(memory_disk(8 * 512));
  blk.driver.start(TestBlk::kAll);
  const Bytes two(1024, std::byte{1});
  for (const std::uint64_t sector :
       {std::uint64_t{7}, std::uint64_t{8}, std::uint64_t{1} << 55, ~std::uint64_t{0}}) {
    CAPTURE(sector);
    CHECK(blk.request(TestBlk::kOut, sector, two).status == TestBlk::kIoError);
    const Answer answer = blk.request(TestBlk::kIn, sector, {}, 1024);
    CHECK(answer.status == TestBlk::kIoError);
    // The used length covers the status, so the bytes before it were written.
    CHECK(answer.used == 1025);
    CHECK(answer.data == Bytes(1024));
  }
  CHECK(blk.request(TestBlk::kOut, 0, Bytes(513, std::byte{1})).status == TestBlk::kIoError);
  CHECK(blk.request(TestBlk::kIn, 0, {}, 511).status == TestBlk::kIoError);
  CHECK(blk.on_disk(0, 8 * 512) == Bytes(8 * 512));
  CHECK(blk.request(TestBlk::kOut, 6, two).status == TestBlk::kOk);
  CHECK(blk.request(TestBlk::kIn, 8, {}, 0).status == TestBlk::kOk);
}

TEST_CASE("blk: a type that does not exist or was not negotiated is unsupported") {
  TestBlk blk;
  blk.driver.start(TestDriver::kTransportFeatures);
  for (const std::uint32_t type : {2u, 3u, 5u, 10u, 14u, 0x8000'0000u, TestBlk::kFlush,
                                   TestBlk::kDiscard, TestBlk::kWriteZeroes}) {
    CAPTURE(type);
    CHECK(blk.request(type, 0, range(0, 1)).status == TestBlk::kUnsupported);
  }
  CHECK(blk.request(TestBlk::kIn, 0, {}, 512).status == TestBlk::kOk);
}

TEST_CASE("blk: a read-only disk says so, refuses every write and is read") {
  BlkSpec spec = memory_disk(1 << 16);
  spec.read_only = true;
  TestBlk blk(spec);
  const std::uint64_t offered = blk.driver.device_features();
  CHECK((offered & kBlkReadOnly) != 0);
  CHECK((offered & (kBlkDiscard | kBlkWriteZeroes | kBlkConfigWce)) == 0);
  blk.driver.start(offered);
  CHECK(blk.request(TestBlk::kOut, 0, pattern(512, 1)).status == TestBlk::kIoError);
  CHECK(blk.on_disk(0, 512) == Bytes(512));
  CHECK(blk.request(TestBlk::kIn, 0, {}, 512).status == TestBlk::kOk);
  CHECK(blk.request(TestBlk::kFlush, 0).status == TestBlk::kOk);
}

TEST_CASE("blk: discard and write zeroes clear what they name") {
  for (const std::uint32_t type : {TestBlk::kDiscard, TestBlk::kWriteZeroes}) {
    CAPTURE(type);
    TestBlk blk;
    blk.driver.start(TestBlk::kAll);
    blk.device->disk().write(0, pattern(1 << 20, 1));
    Bytes ranges = range(8, 16);
    const Bytes second = range(100, 1);
    ranges.insert(ranges.end(), second.begin(), second.end());
    CHECK(blk.request(type, 0, ranges).status == TestBlk::kOk);
    Bytes model = pattern(1 << 20, 1);
    std::fill_n(model.begin() + 8 * 512, 16 * 512, std::byte{0});
    std::fill_n(model.begin() + 100 * 512, 512, std::byte{0});
    CHECK(blk.on_disk(0, 1 << 20) == model);
  }
}

TEST_CASE("blk: a discard or write zeroes that breaks a rule does nothing at all") {
  TestBlk blk;
  blk.driver.start(TestBlk::kAll);
  const Bytes content = pattern(1 << 20, 1);
  blk.device->disk().write(0, content);
  const auto after_good = [](const Bytes& bad) {
    Bytes ranges = range(0, 8);
    ranges.insert(ranges.end(), bad.begin(), bad.end());
    return ranges;
  };
  const auto status = [&](std::uint32_t type, const Bytes& ranges) {
    return blk.request(type, 0, ranges).status;
  };
  CHECK(status(TestBlk::kDiscard, after_good(range(0, 1, 1))) == TestBlk::kUnsupported);
  CHECK(status(TestBlk::kDiscard, after_good(range(0, 1, 2))) == TestBlk::kUnsupported);
  CHECK(status(TestBlk::kWriteZeroes, after_good(range(0, 1, 2))) == TestBlk::kUnsupported);
  CHECK(status(TestBlk::kDiscard, after_good(range(2048, 1))) == TestBlk::kIoError);
  CHECK(status(TestBlk::kDiscard, after_good(range(2047, 2))) == TestBlk::kIoError);
  CHECK(status(TestBlk::kDiscard, after_good(range(~0ull, 1))) == TestBlk::kIoError);
  CHECK(status(TestBlk::kWriteZeroes, after_good(range(0, ~0u))) == TestBlk::kIoError);
  CHECK(status(TestBlk::kDiscard, after_good(Bytes(8))) == TestBlk::kIoError);
  CHECK(status(TestBlk::kDiscard, {}) == TestBlk::kIoError);
  Bytes many;
  for (std::uint32_t i = 0; i <= kBlkMaxRanges; ++i) {
    const Bytes one = range(i, 1);
    many.insert(many.end(), one.begin(), one.end());
  }
  CHECK(status(TestBlk::kDiscard, many) == TestBlk::kIoError);
  CHECK(blk.on_disk(0, 1 << 20) == content);
  CHECK(status(TestBlk::kWriteZeroes, range(0, 8, 1)) == TestBlk::kOk);
  CHECK(blk.on_disk(0, 4096) == Bytes(4096));
}

// How often a disk was flushed.
struct CountingDisk : Disk {
  std::uint64_t size() const override { return 1 << 20; }
  bool may_wait() const override { return false; }
  void read(std::uint64_t, std::span<std::byte> out) override {
    if (broken) throw Error("read disk", EIO, "a test's disk");
    std::ranges::fill(out, std::byte{7});
  }
  void write(std::uint64_t, std::span<const std::byte>) override {
    if (broken) throw Error("write disk", EIO, "a test's disk");
  }
  void zero(std::uint64_t, std::uint64_t, bool) override {}
  void flush() override { ++flushes; }
  void resize(std::uint64_t) override {}
  std::shared_ptr<const DiskImage> image() override { return nullptr; }
  int flushes = 0;
  bool broken = false;
};

TEST_CASE("blk: without FLUSH, or with the cache turned off, each write is flushed") {
  for (const bool negotiated : {false, true}) {
    CAPTURE(negotiated);
    auto owned = std::make_unique<CountingDisk>();
    CountingDisk& disk = *owned;
    TestBlk blk(memory_disk(1 << 20), std::move(owned));
    blk.driver.start(negotiated ? TestBlk::kAll : TestBlk::kAll & ~kBlkFlush);
    CHECK(blk.config(32, 1) == (negotiated ? 1 : 0));
    blk.request(TestBlk::kOut, 0, pattern(512, 1));
    CHECK(disk.flushes == (negotiated ? 0 : 1));
    blk.board.set_mmio(TestBoard::kDevice + 32, 1, negotiated ? 0 : 1);
    blk.request(TestBlk::kOut, 0, pattern(512, 1));
    CHECK(disk.flushes == 1);
    // A reset turns it on again.
    blk.driver.reset();
    CHECK(blk.config(32, 1) == 1);
  }
}

TEST_CASE("blk: the cache mode stays as it is without CONFIG_WCE") {
  TestBlk blk;
  blk.driver.start(TestBlk::kAll & ~kBlkConfigWce);
  blk.board.set_mmio(TestBoard::kDevice + 32, 1, 0);
  CHECK(blk.config(32, 1) == 1);
}

TEST_CASE("blk: an error of the host is the driver's IOERR") {
  auto owned = std::make_unique<CountingDisk>();
  CountingDisk& disk = *owned;
  TestBlk blk(memory_disk(1 << 20), std::move(owned));
  blk.driver.start(TestBlk::kAll);
  disk.broken = true;
  const Answer answer = blk.request(TestBlk::kIn, 0, {}, 1024);
  CHECK(answer.status == TestBlk::kIoError);
  CHECK(answer.data == Bytes(1024));
  CHECK(blk.request(TestBlk::kOut, 0, pattern(512, 1)).status == TestBlk::kIoError);
  disk.broken = false;
  CHECK(blk.request(TestBlk::kIn, 0, {}, 512).status == TestBlk::kOk);
}

TEST_CASE("blk: a request in buffers of any cut is the same request") {
  TestBlk blk;
  blk.driver.start(TestBlk::kAll);
  blk.device->disk().write(512, pattern(512, 9));
  // A header of 1 + 15 bytes; the data, and the status in one buffer with the last of it.
  const Bytes header = [] {
    Bytes bytes(16);
    store_le<std::uint64_t>(bytes, 8, 1);
    return bytes;
  }();
  const Gpa at = blk.put(header);
  const Gpa in = blk.driver.allocate(513);
  TestQueue& ring = blk.driver.queue(0);
  ring.set_descriptor(0, at, 1, TestQueue::kNext, 1);
  ring.set_descriptor(1, at + 1, 15, TestQueue::kNext, 2);
  ring.set_descriptor(2, in, 100, TestQueue::kNext | TestQueue::kWrite, 3);
  ring.set_descriptor(3, in + 100, 413, TestQueue::kWrite, 0);
  ring.set_available(0);
  blk.driver.notify(0);
  CHECK(ring.take_used()->length == 513);
  Bytes got(513);
  REQUIRE(blk.board.memory.read(in, got));
  CHECK(got.back() == std::byte{TestBlk::kOk});
  got.pop_back();
  CHECK(got == pattern(512, 9));
}

TEST_CASE("blk: a request without a status byte comes back with nothing done") {
  TestBlk blk;
  blk.driver.start(TestBlk::kAll);
  Bytes write(16 + 512, std::byte{1});
  store_le<std::uint32_t>(write, 0, TestBlk::kOut);
  store_le<std::uint64_t>(write, 8, 0);
  blk.driver.send(0, {reinterpret_cast<const char*>(write.data()), write.size()});
  const auto used = blk.driver.queue(0).take_used();
  REQUIRE(used.has_value());
  CHECK(used->length == 0);
  CHECK(blk.on_disk(0, 512) == Bytes(512));
  CHECK((blk.driver.status() & kStatusNeedsReset) == 0);
}

TEST_CASE("blk: a header that ends early, or is not there, is an IOERR") {
  for (const std::uint32_t bytes : {0u, 1u, 15u}) {
    CAPTURE(bytes);
    TestBlk blk;
    blk.driver.start(TestBlk::kAll);
    const Gpa at = blk.driver.allocate(16);
    const Gpa status = blk.put(Bytes{std::byte{TestBlk::kUntouched}});
    TestQueue& ring = blk.driver.queue(0);
    ring.set_descriptor(0, at, bytes, TestQueue::kNext, 1);
    ring.set_descriptor(1, status, 1, TestQueue::kWrite, 0);
    ring.set_available(0);
    blk.driver.notify(0);
    CHECK(ring.take_used()->length == 1);
    CHECK(blk.board.memory.load<std::uint8_t>(status) == TestBlk::kIoError);
  }
}

TEST_CASE("blk: a chain that loops, leaves memory or reads after it wrote asks for a reset") {
  const auto broken = [](auto spoil) {
    TestBlk blk;
    blk.driver.start(TestBlk::kAll);
    blk.offer(TestBlk::kOut, 0, pattern(512, 1), 0);
    spoil(blk.driver.queue(0));
    blk.driver.notify(0);
    CHECK((blk.driver.status() & kStatusNeedsReset) != 0);
    CHECK_FALSE(blk.driver.queue(0).take_used().has_value());
    CHECK(blk.on_disk(0, 512) == Bytes(512));
    // And works again after it.
    blk.next_.clear();
    REQUIRE(blk.driver.start(TestBlk::kAll) == 0x0f);
    CHECK(blk.request(TestBlk::kOut, 0, pattern(512, 1)).status == TestBlk::kOk);
  };
  broken([](TestQueue& ring) { ring.set_descriptor(1, 0x1000, 512, TestQueue::kNext, 0); });
  broken([](TestQueue& ring) {
    ring.set_descriptor(1, TestBoard::kRam - 256, 512, TestQueue::kNext, 2);
  });
  broken([](TestQueue& ring) {
    ring.set_descriptor(0, 0x1000, 16, TestQueue::kNext | TestQueue::kWrite, 1);
  });
}

TEST_CASE("blk: more data than the limits allow is an IOERR, whatever the ring lets pass") {
  TestBlk blk(memory_disk(std::uint64_t{1} << 32));
  blk.driver.start(TestBlk::kAll);
  // 256 times the same 1 MiB by an indirect table: 256 MiB.
  const Gpa table = blk.driver.allocate(16 * 258);
  const Gpa status = blk.put(Bytes{std::byte{TestBlk::kUntouched}});
  const Gpa header = blk.put(Bytes(16));
  const auto put = [&](std::uint16_t index, Gpa at, std::uint32_t length, std::uint16_t flags) {
    put_descriptor(blk.board.memory, table + 16u * index, at, length, flags, index + 1);
  };
  put(0, header, 16, TestQueue::kNext);
  for (std::uint16_t i = 1; i <= 256; ++i) {
    put(i, 0x20'0000, 1 << 20, TestQueue::kNext | TestQueue::kWrite);
  }
  put(257, status, 1, TestQueue::kWrite);
  TestQueue& ring = blk.driver.queue(0);
  ring.set_descriptor(0, table, 16 * 258, TestQueue::kIndirect, 0);
  ring.set_available(0);
  blk.driver.notify(0);
  // What was not written is not claimed.
  CHECK(ring.take_used()->length == 0);
  CHECK(blk.board.memory.load<std::uint8_t>(status) == TestBlk::kIoError);
}

TEST_CASE("blk: a resize shows in the configuration space, with an interrupt and a generation") {
  TestBlk blk;
  blk.driver.start(TestBlk::kAll);
  const std::uint8_t before = blk.device->config_generation();
  blk.device->resize(2 << 20);
  CHECK(blk.config(0, 8) == 4096);
  CHECK(blk.device->config_generation() != before);
  CHECK(blk.board.interrupts.take_messages(0) == 1);
  CHECK(blk.request(TestBlk::kOut, 4095, pattern(512, 1)).status == TestBlk::kOk);
  blk.device->resize(512);
  CHECK(blk.request(TestBlk::kIn, 4095, {}, 512).status == TestBlk::kIoError);
  CHECK(error_of([&] { blk.device->resize(100); }) != "");
}

TEST_CASE("blk: every queue serves") {
  BlkSpec spec = memory_disk(1 << 20);
  spec.queues = 4;
  TestBlk blk(spec);
  blk.driver.start(TestBlk::kAll | kBlkMultiqueue);
  for (std::uint16_t queue = 0; queue < 4; ++queue) {
    const Bytes bytes = pattern(512, queue);
    const auto pending = blk.offer(TestBlk::kOut, queue, bytes, 0, queue);
    blk.driver.notify(queue);
    CHECK(blk.take(pending, queue).value().status == TestBlk::kOk);
    CHECK(blk.on_disk(queue * 512, 512) == bytes);
    CHECK(blk.board.interrupts.take_messages(queue + 1) == 1);
  }
  blk.driver.notify(4);
}

TEST_CASE("blk: works after each of a hundred resets, with what was on the disk") {
  TestBlk blk;
  int answered = 0;
  for (unsigned i = 0; i < 100; ++i) {
    blk.next_.clear();
    REQUIRE(blk.driver.start(TestBlk::kAll) == 0x0f);
    const bool kept = i == 0 || blk.request(TestBlk::kIn, 3, {}, 512).data == pattern(512, i - 1);
    answered += kept && blk.request(TestBlk::kOut, 3, pattern(512, i)).status == TestBlk::kOk;
  }
  CHECK(answered == 100);
}

TEST_CASE("features: what a spec goes without is not offered, and asking for it fails") {
  TestBlk plain;
  const std::vector<std::string> names{"discard", "event_idx"};
  CHECK(named_features(*plain.device, names) == (kBlkDiscard | kFeatureEventIdx));

  const BlkSpec spec = memory_disk(1 << 20);
  const auto device = make_blk(spec, open_disk(spec.backing, false));
  device->withhold(named_features(*device, names));
  TestBoard board(*device);
  TestDriver driver(board);
  CHECK(driver.device_features() == (TestBlk::kAll & ~(kBlkDiscard | kFeatureEventIdx)));
  CHECK((driver.negotiate(TestBlk::kAll) & kStatusFeaturesOk) == 0);
  CHECK((driver.negotiate(TestBlk::kAll & ~(kBlkDiscard | kFeatureEventIdx)) & kStatusFeaturesOk) !=
        0);
  // Of a device's own and the transport's; another device's are unknown to it.
  const std::vector<std::string> unknown{"wings"};
  CHECK(error_of([&] { named_features(*device, unknown); })
            .find("no feature \"wings\" (Invalid argument); it can go without: indirect_desc "
                  "event_idx size_max") != std::string::npos);
}

TEST_CASE("blk: specs that no disk can be are refused by name") {
  const auto refusal = [](auto change) {
    BlkSpec spec = memory_disk(1 << 20);
    change(spec);
    return error_of([&] { make_blk(spec, open_disk(spec.backing, false)); });
  };
  CHECK(refusal([](BlkSpec&) {}) == "");
  CHECK(refusal([](BlkSpec& spec) { spec.serial = std::string(21, 's'); }) ==
        "machine spec: disk disk0: a serial of 21 bytes (Invalid argument); it has room for 20");
  CHECK(refusal([](BlkSpec& spec) { spec.queues = 9; }) != "");
  CHECK(refusal([](BlkSpec& spec) { spec.queue_size = 100; }) != "");
  CHECK(refusal([](BlkSpec& spec) { spec.block_size = 8192; }) != "");
  CHECK(refusal([](BlkSpec& spec) {
          spec.block_size = 4096;
          spec.backing = MemoryBacking{512};
        }) != "");
}

}  // namespace
}  // namespace kvitest
