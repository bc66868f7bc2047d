#include "native/virtio/personality.h"

#include <doctest/doctest.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "native/bus/pci_config.h"
#include "native/error.h"
#include "native/state/test_checkpoint.h"
#include "native/virtio/queue.h"
#include "native/virtio/rng/rng.h"
#include "native/virtio/test_driver.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kFeatures = TestDriver::kTransportFeatures;

std::unique_ptr<VirtioDevice> odd_rng(const std::vector<std::string>& names) {
  std::unique_ptr<VirtioDevice> device = make_rng({});
  device->take_on(personality_of(names));
  return device;
}

struct Bench {
  explicit Bench(const std::vector<std::string>& names) : device(odd_rng(names)) {}
  std::unique_ptr<VirtioDevice> device;
  TestBoard board{*device};
  TestDriver driver{board};

  // The used length of a request with 8 bytes that the device reads and 16 that it fills.
  std::uint32_t used_length(std::uint64_t features = kFeatures) {
    REQUIRE(driver.start(features) == 0x0f);
    const Gpa at = driver.allocate(32);
    TestQueue& ring = driver.queue(0);
    ring.set_descriptor(0, at, 8, TestQueue::kNext, 1);
    ring.set_descriptor(1, at + 8, 16, TestQueue::kWrite, 0);
    ring.set_available(0);
    driver.notify(0);
    const auto used = ring.take_used();
    REQUIRE(used.has_value());
    // It is only told wrong: what is written is what was asked for.
    CHECK(board.memory.load<std::uint64_t>(at) == 0);
    CHECK(board.memory.load<std::uint64_t>(at + 24) == 0);
    return used->length;
  }
};

TEST_CASE("personality: a used length is honest, of the whole chain, too long, or zero") {
  for (const std::uint64_t features : {kFeatures, kFeatures | kFeatureRingPacked}) {
    const auto length = [&](const std::vector<std::string>& names) {
      Bench bench(names);
      bench.device->ask_for(kFeatureRingPacked);
      return bench.used_length(features);
    };
    CHECK(length({}) == 16);
    CHECK(length({"used-length-whole-chain"}) == 24);
    CHECK(length({"used-length-too-long"}) == 17);
    CHECK(length({"used-length-zero"}) == 0);
  }
}

TEST_CASE("personality: of a request that has nothing to write a too long answer has one byte") {
  Bench bench({"used-length-too-long"});
  REQUIRE(bench.driver.start(kFeatures) == 0x0f);
  bench.driver.send(0, "for nobody");
  CHECK(bench.driver.queue(0).take_used()->length == 1);
}

TEST_CASE(
    "personality: an odd queue size is no power of two, and a driver that insists is refused") {
  const std::uint16_t honest = Bench({}).driver.queue_size(0);
  Bench bench({"queue-size-odd"});
  CHECK(bench.driver.queue_size(0) == honest - 1);
  bench.driver.negotiate(kFeatures);
  const Gpa at = bench.driver.allocate(0x4000);
  const auto size = static_cast<std::uint16_t>(honest - 1);
  CHECK(bench.driver.enable_queue(0, size, at, at + 0x2000, at + 0x3000) == 0);
  CHECK((bench.driver.status() & 0x40) != 0);  // DEVICE_NEEDS_RESET
}

TEST_CASE("personality: a driver that chooses a smaller ring works with an odd queue size") {
  Bench bench({"queue-size-odd"});
  bench.driver.negotiate(kFeatures);
  const Gpa at = bench.driver.allocate(0x1000);
  CHECK(bench.driver.enable_queue(0, 4, at, at + 0x400, at + 0x800) == 1);
}

TEST_CASE("personality: a driver that makes a ring smaller has another than a fixed one's device") {
  Bench bench({"queue-size-fixed"});
  const std::uint16_t size = bench.driver.queue_size(0);
  bench.driver.negotiate(kFeatures);
  const Gpa at = bench.driver.allocate(0x4000);
  CHECK(bench.driver.enable_queue(0, 4, at, at + 0x2000, at + 0x3000) == 1);
  CHECK(bench.driver.queue_size(0) == size);
}

TEST_CASE("personality: ones written to PCI status clear it, the capabilities' bit too") {
  constexpr std::uint32_t kCapabilities = 0x10;
  Bench honest({});
  honest.board.set_config(kPciStatus, 2, 0xffff);
  CHECK((honest.board.config(kPciStatus, 2) & kCapabilities) != 0);
  Bench bench({"pci-status-clears-capabilities"});
  bench.board.set_config(kPciStatus, 2, 0);
  CHECK((bench.board.config(kPciStatus, 2) & kCapabilities) != 0);
  // In a wider access too; the command register beside it is as ever.
  bench.board.set_config(kPciCommand, 4, 0xffff'0000 | kPciCommandMemory);
  CHECK(bench.board.config(kPciStatus, 2) == 0);
  CHECK(bench.board.config(kPciCommand, 2) == kPciCommandMemory);
}

TEST_CASE("personality: a cleared PCI status is in the checkpoint, for a device as odd only") {
  Bench parent({"pci-status-clears-capabilities"});
  parent.board.set_config(kPciStatus, 2, 0xffff);
  const std::vector<std::byte> bytes = saved(parent.board);
  Bench fork({"pci-status-clears-capabilities"});
  load(fork.board, bytes);
  CHECK(fork.board.config(kPciStatus, 2) == 0);
  Bench honest({});
  CHECK(refusal(honest.board, bytes).find("another function") != std::string::npos);
}

TEST_CASE("personality: an oddity there is not, and two used lengths, are refused by name") {
  const auto said = [](const std::vector<std::string>& names) -> std::string {
    try {
      personality_of(names);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  CHECK(said({"charming"}).find("no oddity \"charming\"") != std::string::npos);
  CHECK(said({"charming"}).find("queue-size-fixed") != std::string::npos);
  CHECK(said({"used-length-zero", "used-length-too-long"}).find("two used lengths") !=
        std::string::npos);
}

}  // namespace
}  // namespace kvitest
