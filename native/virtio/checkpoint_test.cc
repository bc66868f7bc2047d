// The transport in a checkpoint, around the smallest device.
#include <doctest/doctest.h>

#include <memory>
#include <string>
#include <vector>

#include "native/error.h"
#include "native/state/test_checkpoint.h"
#include "native/virtio/rng/rng.h"
#include "native/virtio/test_driver.h"

namespace kvitest {
namespace {

struct Bench {
  Bench() = default;
  // A fork, not yet resumed.
  explicit Bench(const Bench& parent) {
    driver.adopt(parent.driver);
    board.copy_memory(parent.board);
    load(board, saved(parent.board));
  }

  std::unique_ptr<VirtioDevice> device = make_rng({});
  TestBoard board{*device};
  TestDriver driver{board};
};

std::size_t length_received(Bench& bench) {
  const auto bytes = bench.driver.receive(0);
  return bytes ? bytes->size() : 0;
}

TEST_CASE("virtio checkpoint: registers read the same in a fork") {
  Bench bench;
  bench.driver.start(TestDriver::kTransportFeatures);
  bench.driver.offer(0, 16);

  Bench fork(bench);

  for (std::uint64_t offset = 0; offset < CommonConfig::kSize; offset += 4) {
    CHECK(fork.board.mmio(offset, 4) == bench.board.mmio(offset, 4));
  }
  for (unsigned offset = 0; offset < 256; offset += 4) {
    const auto at = static_cast<std::uint8_t>(offset);
    CHECK(fork.board.config(at) == bench.board.config(at));
  }
}

TEST_CASE("virtio checkpoint: packed rings go on where they were, wrap counters included") {
  const auto packed = [] {
    auto bench = std::make_unique<Bench>();
    bench->device->ask_for(kFeatureRingPacked);
    return bench;
  };
  const auto bench = packed();
  REQUIRE((bench->driver.start(TestDriver::kTransportFeatures | kFeatureRingPacked) &
           kStatusDriverOk) != 0);
  for (int i = 0; i < 70; ++i) {
    bench->driver.offer(0, 16);
    CHECK(length_received(*bench) == 16);
  }
  const auto fork = packed();
  fork->driver.adopt(bench->driver);
  fork->board.copy_memory(bench->board);
  load(fork->board, saved(bench->board));
  fork->board.resume();
  CHECK(length_received(*fork) == 0);
  for (int i = 0; i < 70; ++i) {
    fork->driver.offer(0, 24);
    CHECK(length_received(*fork) == 24);
  }
  // A device that does not offer them cannot be what the checkpoint is of.
  Bench other;
  CHECK(
      refusal(other.board, saved(bench->board)).find("features that this device does not offer") !=
      std::string::npos);
}

TEST_CASE("virtio checkpoint: a fork answers what comes next, with its own interrupts") {
  Bench bench;
  bench.driver.start(TestDriver::kTransportFeatures);
  for (int i = 0; i < 70; ++i) bench.driver.offer(0, 16);
  for (int i = 0; i < 70; ++i) CHECK(length_received(bench) == 16);
  bench.board.interrupts.take_messages(1);

  Bench first(bench);
  Bench second(bench);
  first.board.resume();
  second.board.resume();
  first.driver.offer(0, 32);

  CHECK(length_received(first) == 32);
  CHECK(first.board.interrupts.take_messages(1) == 1);
  CHECK(length_received(second) == 0);
  CHECK(second.board.interrupts.take_messages(1) == 0);
  second.driver.offer(0, 48);
  CHECK(length_received(second) == 48);
}

TEST_CASE("virtio checkpoint: loading answers nothing, resuming what waited in the ring") {
  Bench bench;
  bench.driver.start(TestDriver::kTransportFeatures);
  const Gpa at = bench.driver.allocate(8);
  bench.driver.queue(0).set_descriptor(0, at, 8, TestQueue::kWrite, 0);
  bench.driver.queue(0).set_available(0);  // without a doorbell

  Bench fork(bench);
  CHECK(fork.driver.queue(0).used_index() == 0);
  CHECK(fork.board.interrupts.take_messages(1) == 0);
  fork.board.resume();
  CHECK(fork.driver.queue(0).used_index() == 1);
  CHECK(fork.board.interrupts.take_messages(1) == 1);
  CHECK(bench.driver.queue(0).used_index() == 0);
}

TEST_CASE("virtio checkpoint: an asserted INTA# is asserted again once the fork is resumed") {
  Bench bench;
  bench.driver.start(TestDriver::kTransportFeatures, false);
  bench.driver.offer(0, 16);
  REQUIRE(bench.board.interrupts.line(TestBoard::kGsi));

  Bench fork(bench);
  CHECK_FALSE(fork.board.interrupts.line(TestBoard::kGsi));
  fork.board.resume();
  CHECK(fork.board.interrupts.line(TestBoard::kGsi));
  CHECK(fork.board.mmio(TestBoard::kIsr, 1) == 1);
  CHECK_FALSE(fork.board.interrupts.line(TestBoard::kGsi));
  CHECK(bench.board.interrupts.line(TestBoard::kGsi));
}

TEST_CASE("virtio checkpoint: a vector masked with a message pending sends it in the fork") {
  Bench bench;
  bench.driver.start(TestDriver::kTransportFeatures);
  bench.board.set_mmio(TestBoard::kMsixTable + 16 + 12, 4, 1);
  bench.driver.offer(0, 16);
  REQUIRE(bench.board.mmio(TestBoard::kMsixPending, 8) == 0b10);

  Bench fork(bench);
  fork.board.resume();
  CHECK(fork.board.interrupts.take_messages(1) == 0);
  CHECK(fork.board.mmio(TestBoard::kMsixPending, 8) == 0b10);
  fork.board.set_mmio(TestBoard::kMsixTable + 16 + 12, 4, 0);
  CHECK(fork.board.interrupts.take_messages(1) == 1);
}

TEST_CASE("virtio checkpoint: a driver that is not done negotiates on in the fork") {
  Bench bench;
  bench.driver.negotiate(TestDriver::kTransportFeatures);

  Bench fork(bench);
  fork.board.resume();
  CHECK(fork.driver.status() == 0x0b);
  fork.driver.enable_msix();
  fork.driver.set_up_queues(true);
  CHECK(fork.driver.add_status(kStatusDriverOk) == 0x0f);
  fork.driver.offer(0, 16);
  CHECK(length_received(fork) == 16);
}

TEST_CASE("virtio checkpoint: a fork's driver may reset its device and start again") {
  Bench bench;
  bench.driver.start(TestDriver::kTransportFeatures);
  bench.driver.offer(0, 16);

  Bench fork(bench);
  fork.board.resume();
  CHECK(fork.driver.start(TestDriver::kTransportFeatures) == 0x0f);
  fork.driver.offer(0, 24);
  CHECK(length_received(fork) == 24);
}

TEST_CASE("virtio checkpoint: a BAR that was moved, or switched off, decodes there in the fork") {
  Bench bench;
  bench.driver.start(TestDriver::kTransportFeatures);
  bench.board.set_config(0x10, 4, 0xd000'0000);
  bench.board.bar = 0xd000'0000;

  Bench moved(bench);
  CHECK(moved.driver.status() == 0x0f);
  moved.board.bar = TestBoard::kBar;
  CHECK(moved.driver.status() == 0xff);

  bench.board.set_config(0x04, 2, 0);
  Bench off(bench);
  CHECK(off.driver.status() == 0xff);
  off.board.set_config(0x04, 2, 2);
  CHECK(off.driver.status() == 0x0f);
}

// Two functions on one bus.
struct Pair {
  TestInterrupts interrupts;
  GuestMemory memory{1 << 20};
  IoBus pio;
  IoBus mmio;
  std::unique_ptr<VirtioDevice> devices[2] = {make_rng({}), make_rng({})};
  std::unique_ptr<PciFunction> functions[2] = {function(0), function(1)};
  PciBus pci{pio};

  Pair() {
    for (std::uint8_t i = 0; i < 2; ++i)
      pci.attach(static_cast<std::uint8_t>(i + 1), *functions[i]);
  }
  std::unique_ptr<PciFunction> function(unsigned i) {
    return make_virtio_pci(*devices[i], memory, mmio, interrupts,
                           kPciMmio32Base + i * TestBoard::kBarSize, 16 + i);
  }
  void move(std::size_t i, std::uint64_t address) {
    std::array<std::byte, 4> bytes{};
    write_le(bytes, address);
    functions[i]->config_write(0x10, bytes);
  }
  // The device status, of whichever function decodes here; all ones when none does.
  std::uint64_t status_at(std::uint64_t address) {
    std::array<std::byte, 1> bytes{std::byte{0xff}};
    mmio.read(address + 20, bytes);
    return read_le(bytes);
  }
  void set_status_at(std::uint64_t address, std::uint8_t status) {
    const std::array<std::byte, 1> bytes{std::byte{status}};
    mmio.write(address + 20, bytes);
  }
};

constexpr std::uint64_t kFirst = kPciMmio32Base;
constexpr std::uint64_t kSecond = kPciMmio32Base + TestBoard::kBarSize;
constexpr std::uint64_t kElsewhere = kPciMmio32Base + 64 * TestBoard::kBarSize;

TEST_CASE("virtio checkpoint: functions that exchanged their places are found there in the fork") {
  Pair pair;
  pair.set_status_at(kFirst, 1);
  pair.set_status_at(kSecond, 3);
  pair.move(0, kElsewhere);
  pair.move(1, kFirst);
  pair.move(0, kSecond);

  Pair fork;
  load(fork.pci, saved(pair.pci));
  CHECK(fork.status_at(kFirst) == 3);
  CHECK(fork.status_at(kSecond) == 1);
  CHECK(fork.status_at(kElsewhere) == 0xff);
}

TEST_CASE("virtio checkpoint: of two functions at one place the same one decodes in the fork") {
  Pair pair;
  pair.set_status_at(kFirst, 1);
  pair.set_status_at(kSecond, 3);
  pair.move(0, kSecond);  // taken: it decodes nothing

  Pair fork;
  load(fork.pci, saved(pair.pci));
  CHECK(fork.status_at(kSecond) == 3);
  CHECK(fork.status_at(kFirst) == 0xff);
  fork.move(0, kElsewhere);
  CHECK(fork.status_at(kElsewhere) == 1);
}

TEST_CASE("virtio checkpoint: another version of any section is refused by name") {
  Bench bench;
  bench.driver.start(TestDriver::kTransportFeatures);
  const std::vector<std::byte> bytes = saved(bench.board);
  for (const std::string section : {"pci-bus", "pci-config", "virtio-pci", "virtio-interrupts",
                                    "msix", "virtio-common", "virtio-queues", "virtio-rng"}) {
    Bench fork;
    CHECK(refusal(fork.board, with_version(bytes, section, 77)) ==
          "load checkpoint: section " + section +
              ": it has version 77, this program knows version " +
              (std::string(section) == "virtio-queues" || std::string(section) == "virtio-common"
                   ? "2"
                   : "1") +
              " (Bad message); take the "
              "checkpoint again");
  }
}

TEST_CASE("virtio checkpoint: queues outside the memory of the fork are refused") {
  Bench bench;
  bench.driver.start(TestDriver::kTransportFeatures);
  // The queue's size and the address of its descriptors, as the section holds them.
  std::string text(10, '\0');
  const std::span<std::byte> layout = std::as_writable_bytes(std::span(text));
  write_le(layout.first(2), bench.driver.queue(0).size());
  write_le(layout.last(8), bench.driver.queue(0).descriptors());
  std::vector<std::byte> bytes = saved(bench.board);
  const std::string_view view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  bytes[view.find(text) + 9] = std::byte{0x7f};

  Bench fork;
  CHECK(refusal(fork.board, bytes).find("queue 0 lies where no queue can") != std::string::npos);
}

TEST_CASE("virtio checkpoint: cut or changed anywhere it is refused or harmless") {
  Bench bench;
  bench.driver.start(TestDriver::kTransportFeatures);
  bench.driver.offer(0, 16);
  const std::vector<std::byte> bytes = saved(bench.board);
  const auto device = make_rng({});
  int refused = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    TestBoard cut(*device);
    refused += refusal(cut, std::span(bytes).first(at)).empty() ? 0 : 1;
    for (const std::byte value : {std::byte{0xff}, std::byte{1}, bytes[at] ^ std::byte{0x80}}) {
      std::vector<std::byte> changed = bytes;
      changed[at] = value;
      TestBoard fork(*device);
      if (refusal(fork, changed).empty()) fork.resume();
    }
  }
  CHECK(refused == static_cast<int>(bytes.size()));
}

}  // namespace
}  // namespace kvitest
