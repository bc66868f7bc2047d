#include "native/virtio/pci_transport.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "native/error.h"
#include "native/virtio/test_driver.h"

namespace kvitest {
namespace {

constexpr std::uint64_t kDeviceFeature = 1 << 3;

// Remembers what its transport told it, and gives every request back.
class EchoDevice : public VirtioDevice {
 public:
  std::uint32_t type() const override { return 2; }
  std::uint64_t features() const override { return kDeviceFeature; }
  std::vector<std::uint16_t> queue_sizes() const override { return {16, 64}; }
  void read_config(std::uint64_t offset, std::span<std::byte> data) override {
    write_le(data, 0x11 * (offset + 1));
  }
  void write_config(std::uint64_t offset, std::span<const std::byte> data) override {
    config_written = {offset, read_le(data)};
  }
  std::uint8_t config_generation() override { return generation; }
  void activate(std::uint64_t features, std::span<VirtQueue* const> queues,
                VirtioInterrupts& interrupts) override {
    negotiated = features;
    queues_.assign(queues.begin(), queues.end());
    interrupts_ = &interrupts;
    ++activations;
  }
  void notify(std::uint16_t queue) override {
    ++notifications;
    if (queue >= queues_.size() || queues_[queue] == nullptr) return;
    VirtQueue& ring = *queues_[queue];
    while (auto chain = ring.pop()) ring.push_used(*chain, 0);
    if (ring.needs_interrupt()) interrupts_->queue_interrupt(queue);
  }
  void reset() override {
    queues_.clear();
    interrupts_ = nullptr;
    ++resets;
  }
  void save(StateWriter&) const override {}
  void load(StateReader&, const VirtioActivation*) override {}
  void resume() override {}

  std::pair<std::uint64_t, std::uint64_t> config_written{};
  std::uint64_t negotiated = 0;
  std::uint8_t generation = 0;
  int activations = 0;
  int notifications = 0;
  int resets = 0;
  VirtioInterrupts* interrupts_ = nullptr;
  std::vector<VirtQueue*> queues_;
};

struct Bench {
  EchoDevice device;
  TestBoard board{device};
  TestDriver driver{board};
};

constexpr std::uint64_t kFeatures = TestDriver::kTransportFeatures | kDeviceFeature;

TEST_CASE("virtio-pci: identity is a modern device of the virtio vendor") {
  Bench bench;
  CHECK(bench.board.config(0x00) == 0x1042'1af4);
  CHECK(bench.board.config(0x08, 1) == 1);
  CHECK(bench.board.config(0x2c) == 0x1042'1af4);
  CHECK(bench.board.config(0x3c, 2) == (0x0100 | TestBoard::kGsi));
}

TEST_CASE("virtio-pci: capabilities name where the structures are") {
  Bench bench;
  const std::uint8_t common = bench.board.find_capability(0x09, 1);
  const std::uint8_t notify = bench.board.find_capability(0x09, 2);
  const std::uint8_t isr = bench.board.find_capability(0x09, 3);
  const std::uint8_t device = bench.board.find_capability(0x09, 4);
  const std::uint8_t msix = bench.board.find_capability(0x11);
  CHECK(bench.board.config(common + 4, 1) == 0);
  CHECK(bench.board.config(common + 8) == 0x0000);
  CHECK(bench.board.config(common + 12) >= 56);
  CHECK(bench.board.config(notify + 8) == 0x6000);
  CHECK(bench.board.config(notify + 12) == 8);
  CHECK(bench.board.config(notify + 16) == 4);
  CHECK(bench.board.config(isr + 8) == 0x2000);
  CHECK(bench.board.config(device + 8) == 0x4000);
  CHECK(bench.board.config(msix + 2, 2) == 2);  // three vectors
  CHECK(bench.board.config(msix + 4) == 0x8000);
  CHECK(bench.board.config(msix + 8) == 0x4'8000);
}

TEST_CASE("virtio-pci: a driver that follows the specification gets a working device") {
  Bench bench;
  const std::uint8_t status = bench.driver.start(kFeatures);
  bench.driver.send(1, "request");
  CHECK(status == 0x0f);
  CHECK(bench.device.negotiated == kFeatures);
  CHECK(bench.driver.queue(1).take_used().has_value());
  CHECK(bench.board.interrupts.take_messages(2) == 1);
  CHECK(bench.board.interrupts.take_messages(1) == 0);
}

TEST_CASE("virtio-pci: offered features are those of the device and the transport") {
  Bench bench;
  CHECK(bench.driver.device_features() == kFeatures);
  bench.board.set_mmio(0, 4, 2);
  CHECK(bench.board.mmio(4, 4) == 0);
}

TEST_CASE("virtio-pci: FEATURES_OK stays clear for a feature that was not offered") {
  Bench bench;
  CHECK((bench.driver.negotiate(kFeatures | (1 << 4)) & kStatusFeaturesOk) == 0);
}

TEST_CASE("virtio-pci: FEATURES_OK stays clear without VERSION_1") {
  Bench bench;
  CHECK((bench.driver.negotiate(kDeviceFeature) & kStatusFeaturesOk) == 0);
}

TEST_CASE("virtio-pci: FEATURES_OK stays clear for a bit beyond the 64 that exist") {
  Bench bench;
  bench.driver.add_status(kStatusAcknowledge | kStatusDriver);
  bench.board.set_mmio(8, 4, 1);
  bench.board.set_mmio(12, 4, 1);
  bench.board.set_mmio(8, 4, 2);
  bench.board.set_mmio(12, 4, 1);
  CHECK((bench.driver.add_status(kStatusFeaturesOk) & kStatusFeaturesOk) == 0);
}

TEST_CASE("virtio-pci: DRIVER_OK without accepted features does not start the device") {
  Bench bench;
  bench.driver.negotiate(kFeatures | (1 << 4));
  const std::uint8_t status = bench.driver.add_status(kStatusDriverOk);
  CHECK((status & kStatusDriverOk) == 0);
  CHECK(bench.device.activations == 0);
}

TEST_CASE("virtio-pci: features accepted with FEATURES_OK do not change any more") {
  Bench bench;
  bench.driver.negotiate(kFeatures);
  bench.board.set_mmio(8, 4, 0);
  bench.board.set_mmio(12, 4, 0);
  bench.driver.set_up_queues(false);
  bench.driver.add_status(kStatusDriverOk);
  CHECK(bench.device.negotiated == kFeatures);
}

TEST_CASE("virtio-pci: status bits are not cleared but by a reset") {
  Bench bench;
  bench.driver.start(kFeatures);
  bench.board.set_mmio(20, 1, kStatusAcknowledge);
  CHECK(bench.driver.status() == 0x0f);
  bench.driver.reset();
  CHECK(bench.driver.status() == 0);
  CHECK(bench.device.resets == 1);
}

TEST_CASE("virtio-pci: a reset clears queues, vectors and features, not MSI-X itself") {
  Bench bench;
  bench.driver.start(kFeatures);
  bench.driver.reset();
  bench.driver.select(1);
  CHECK(bench.board.mmio(28, 2) == 0);
  CHECK(bench.board.mmio(32, 8) == 0);
  CHECK(bench.board.mmio(26, 2) == 0xffff);
  CHECK(bench.board.mmio(16, 2) == 0xffff);
  CHECK(bench.board.mmio(24, 2) == 64);
  CHECK(bench.board.mmio(12, 4) == 0);
  CHECK((bench.board.config(bench.board.find_capability(0x11) + 2, 2) & 0x8000) != 0);
}

TEST_CASE("virtio-pci: a queue that does not exist has size 0 and takes no writes") {
  Bench bench;
  CHECK(bench.driver.queue_size(2) == 0);
  CHECK(bench.driver.enable_queue(2, 16, 0x1000, 0x2000, 0x3000) == 0);
  CHECK(bench.driver.enable_queue(0xffff, 16, 0x1000, 0x2000, 0x3000) == 0);
  bench.board.set_mmio(26, 2, 0);
  CHECK(bench.board.mmio(26, 2) == 0xffff);
}

TEST_CASE("virtio-pci: a ring that breaks the rules is not enabled and asks for a reset") {
  struct Case {
    std::uint16_t size;
    Gpa descriptors, available, used;
  };
  for (const Case& bad :
       {Case{0, 0x1000, 0x2000, 0x3000}, Case{3, 0x1000, 0x2000, 0x3000},
        Case{32, 0x1000, 0x2000, 0x3000}, Case{16, 0x1001, 0x2000, 0x3000},
        Case{16, 0x1000, 0x2001, 0x3000}, Case{16, 0x1000, 0x2000, 0x3002},
        Case{16, TestBoard::kRam, 0x2000, 0x3000}, Case{16, 0x1000, TestBoard::kRam - 4, 0x3000},
        Case{16, 0x1000, 0x2000, 0xffff'ffff'ffff'fff0}}) {
    Bench bench;
    bench.driver.negotiate(kFeatures);
    const auto enabled =
        bench.driver.enable_queue(0, bad.size, bad.descriptors, bad.available, bad.used);
    const std::uint8_t status = bench.driver.add_status(kStatusDriverOk);
    CHECK(enabled == 0);
    CHECK((status & kStatusNeedsReset) != 0);
    CHECK(bench.device.activations == 0);
  }
}

TEST_CASE("virtio-pci: a smaller queue than the maximum may be chosen") {
  Bench bench;
  bench.driver.negotiate(kFeatures);
  CHECK(bench.driver.enable_queue(1, 2, 0x1000, 0x2000, 0x3000) == 1);
  bench.driver.add_status(kStatusDriverOk);
  CHECK(bench.device.queues_.at(0) == nullptr);
  CHECK(bench.device.queues_.at(1)->size() == 2);
}

TEST_CASE("virtio-pci: an enabled queue keeps its layout, and none is enabled after DRIVER_OK") {
  Bench bench;
  bench.driver.negotiate(kFeatures);
  bench.driver.enable_queue(0, 16, 0x1000, 0x2000, 0x3000);
  bench.driver.enable_queue(0, 8, 0x4000, 0x5000, 0x6000);
  CHECK(bench.board.mmio(24, 2) == 16);
  CHECK(bench.board.mmio(32, 8) == 0x1000);
  bench.driver.add_status(kStatusDriverOk);
  CHECK(bench.driver.enable_queue(1, 16, 0x4000, 0x5000, 0x6000) == 0);
}

TEST_CASE(
    "virtio-pci: a doorbell before DRIVER_OK, beyond the queues or of odd width is not heard") {
  Bench bench;
  bench.driver.negotiate(kFeatures);
  bench.driver.set_up_queues(false);
  bench.driver.notify(0);
  CHECK(bench.device.notifications == 0);
  bench.driver.add_status(kStatusDriverOk);
  bench.driver.notify(2);
  bench.driver.notify(500);
  bench.board.set_mmio(TestBoard::kNotify + 2, 2, 0);
  bench.board.set_mmio(TestBoard::kNotify, 1, 0);
  bench.board.set_mmio(TestBoard::kNotify, 8, 0);
  CHECK(bench.device.notifications == 0);
  bench.driver.notify(1);
  CHECK(bench.device.notifications == 1);
}

TEST_CASE("virtio-pci: a queue that breaks at work sets NEEDS_RESET and interrupts once") {
  Bench bench;
  bench.driver.start(kFeatures);
  bench.driver.queue(0).set_available(999);
  bench.driver.notify(0);
  bench.driver.notify(0);
  CHECK(bench.driver.status() == (0x0f | kStatusNeedsReset));
  CHECK(bench.board.interrupts.take_messages(0) == 1);
  const std::uint8_t restarted = bench.driver.start(kFeatures);
  bench.driver.send(0, "x");
  CHECK(restarted == 0x0f);
  CHECK(bench.driver.queue(0).take_used().has_value());
}

TEST_CASE("virtio-pci: queues that share a vector have a table of two") {
  class Together : public EchoDevice {
   public:
    std::size_t queue_vectors() const override { return 1; }
  };
  Together device;
  TestBoard board(device);
  CHECK(board.config(board.find_capability(0x11) + 2, 2) == 1);
}

TEST_CASE("virtio-pci: vectors beyond the table read back as none") {
  Bench bench;
  bench.driver.select(0);
  bench.board.set_mmio(26, 2, 3);
  bench.board.set_mmio(16, 2, 0xfffe);
  CHECK(bench.board.mmio(26, 2) == 0xffff);
  CHECK(bench.board.mmio(16, 2) == 0xffff);
  bench.board.set_mmio(26, 2, 2);
  CHECK(bench.board.mmio(26, 2) == 2);
  bench.board.set_mmio(26, 2, 0xffff);
  CHECK(bench.board.mmio(26, 2) == 0xffff);
}

TEST_CASE("virtio-pci: without MSI-X the line is raised until the ISR is read") {
  Bench bench;
  bench.driver.start(kFeatures, false);
  bench.driver.send(0, "x");
  const bool raised = bench.board.interrupts.line(TestBoard::kGsi);
  const std::uint32_t pci_status = bench.board.config(0x06, 2);
  const std::uint64_t isr = bench.board.mmio(TestBoard::kIsr, 1);
  CHECK(raised);
  CHECK((pci_status & 0x08) != 0);
  CHECK(isr == 1);
  CHECK_FALSE(bench.board.interrupts.line(TestBoard::kGsi));
  CHECK((bench.board.config(0x06, 2) & 0x08) == 0);
  CHECK(bench.board.mmio(TestBoard::kIsr, 1) == 0);
}

TEST_CASE("virtio-pci: a configuration change has its own ISR bit") {
  Bench bench;
  bench.driver.start(kFeatures, false);
  bench.device.interrupts_->config_interrupt();
  bench.driver.send(0, "x");
  CHECK(bench.board.mmio(TestBoard::kIsr, 1) == 3);
}

TEST_CASE("virtio-pci: interrupt disable, MSI-X and a reset each lower the line") {
  Bench bench;
  bench.driver.start(kFeatures, false);
  bench.device.interrupts_->config_interrupt();
  bench.board.set_config(0x04, 2, 0x0402);
  CHECK_FALSE(bench.board.interrupts.line(TestBoard::kGsi));
  bench.board.set_config(0x04, 2, 0x0002);
  CHECK(bench.board.interrupts.line(TestBoard::kGsi));
  const std::uint8_t msix = bench.board.find_capability(0x11);
  bench.board.set_config(msix + 2, 2, 0x8000);
  CHECK_FALSE(bench.board.interrupts.line(TestBoard::kGsi));
  bench.board.set_config(msix + 2, 2, 0);
  CHECK(bench.board.interrupts.line(TestBoard::kGsi));
  bench.driver.reset();
  CHECK_FALSE(bench.board.interrupts.line(TestBoard::kGsi));
}

TEST_CASE("virtio-pci: a masked vector is delivered when the table entry is unmasked") {
  Bench bench;
  bench.driver.start(kFeatures);
  bench.board.set_mmio(TestBoard::kMsixTable + 16 + 12, 4, 1);
  bench.driver.send(0, "x");
  CHECK(bench.board.interrupts.take_messages(1) == 0);
  CHECK(bench.board.mmio(TestBoard::kMsixPending, 8) == 0b10);
  bench.board.set_mmio(TestBoard::kMsixTable + 16 + 12, 4, 0);
  CHECK(bench.board.interrupts.take_messages(1) == 1);
}

TEST_CASE("virtio-pci: device configuration is read and written at any width") {
  Bench bench;
  CHECK(bench.board.mmio(TestBoard::kDevice + 2, 1) == 0x33);
  bench.board.set_mmio(TestBoard::kDevice + 8, 4, 0x1234'5678);
  CHECK(bench.device.config_written == std::pair<std::uint64_t, std::uint64_t>(8, 0x1234'5678));
  bench.device.generation = 7;
  CHECK(bench.board.mmio(21, 1) == 7);
}

TEST_CASE("virtio-pci: common fields are written at their own width only") {
  Bench bench;
  bench.driver.select(1);
  bench.board.set_mmio(22, 1, 0);
  bench.board.set_mmio(22, 4, 0);
  CHECK(bench.board.mmio(22, 2) == 1);
  bench.board.set_mmio(20, 2, 1);
  CHECK(bench.driver.status() == 0);
  bench.board.set_mmio(32, 8, 0x1'2345'6780);
  CHECK(bench.board.mmio(36, 4) == 1);
  CHECK(bench.board.mmio(32, 4) == 0x2345'6780);
  bench.board.set_mmio(34, 4, 0xffff'ffff);
  CHECK(bench.board.mmio(32, 8) == 0x1'2345'6780);
}

TEST_CASE("virtio-pci: holes and edges of the BAR read 0 and ignore writes") {
  Bench bench;
  for (const std::uint64_t offset : {0x40, 0x3c, 0x1000, 0x2001, 0x3fff, 0x5000, 0x6008, 0x7fff,
                                     0x1'0000, 0x4'7ff8, 0x4'8100, 0x7'fff8}) {
    bench.board.set_mmio(offset, 8, ~0ull);
    CHECK(bench.board.mmio(offset, 8) == 0);
  }
  CHECK(bench.driver.status() == 0);
}

TEST_CASE("virtio-pci: the BAR moves with its register and the memory enable bit") {
  Bench bench;
  bench.board.set_config(0x04, 2, 0);
  CHECK(bench.board.mmio(24, 2) == 0xffff);
  bench.board.set_config(0x10, 4, 0x0010'0000);
  bench.board.set_config(0x14, 4, 0x0000'0001);
  CHECK(bench.board.mmio(24, 2) == 0xffff);
  bench.board.bar = 0x1'0010'0000;
  bench.board.set_config(0x04, 2, 2);
  CHECK(bench.board.mmio(24, 2) == 16);
  CHECK(bench.driver.start(kFeatures) == 0x0f);
}

TEST_CASE("virtio-pci: sizing the BAR with decoding on leaves it where it is put back") {
  Bench bench;
  bench.board.set_config(0x10, 4, 0xffff'ffff);
  const std::uint32_t low = bench.board.config(0x10);
  bench.board.set_config(0x14, 4, 0xffff'ffff);
  const std::uint32_t high = bench.board.config(0x14);
  bench.board.set_config(0x14, 4, 0);
  bench.board.set_config(0x10, 4, static_cast<std::uint32_t>(TestBoard::kBar));
  CHECK(low == 0xfff8'0004);
  CHECK(high == 0xffff'ffff);
  CHECK(bench.board.mmio(24, 2) == 16);
}

TEST_CASE("virtio-pci: a BAR put over another device's decodes nothing until it is moved away") {
  class Neighbour : public IoDevice {
   public:
    void io_read(std::uint64_t, std::span<std::byte> data) override { write_le(data, 0x77); }
    void io_write(std::uint64_t, std::span<const std::byte>) override {}
  };
  Neighbour neighbour;
  Bench bench;
  bench.board.mmio_bus.insert(0xd000'0000, 0x1000, neighbour);
  bench.board.set_config(0x10, 4, 0xd000'0000);
  bench.board.bar = 0xd000'0000;
  CHECK(bench.board.mmio(24, 2) == 0x77);
  CHECK(bench.board.mmio(0x2'0000, 4) == 0xffff'ffff);
  bench.board.set_config(0x10, 4, 0xd008'0000);
  bench.board.bar = 0xd008'0000;
  CHECK(bench.board.mmio(24, 2) == 16);
}

TEST_CASE("virtio-pci: a place that is taken at creation is an error") {
  EchoDevice device;
  TestBoard board(device);
  CHECK_THROWS_AS(make_virtio_pci(device, board.memory, board.mmio_bus, board.interrupts,
                                  TestBoard::kBar, TestBoard::kGsi),
                  Error);
}

TEST_CASE("virtio-pci: the configuration access capability reaches the BAR without decoding") {
  Bench bench;
  const std::uint8_t window = bench.board.find_capability(0x09, 5);
  bench.board.set_config(0x04, 2, 0);
  bench.board.set_config(window + 8, 4, 22);  // queue_select
  bench.board.set_config(window + 12, 4, 2);
  bench.board.set_config(window + 16, 2, 1);
  bench.board.set_config(window + 8, 4, 24);  // queue_size
  CHECK(bench.board.config(window + 16, 2) == 64);
}

TEST_CASE("virtio-pci: a configuration access window that names nothing does nothing") {
  Bench bench;
  const std::uint8_t window = bench.board.find_capability(0x09, 5);
  struct Aim {
    std::uint32_t bar, offset, length;
  };
  for (const Aim& aim : {Aim{1, 20, 1}, Aim{0, 20, 3}, Aim{0, 20, 0}, Aim{0, 20, 0xffff'ffff},
                         Aim{0, 0xffff'fffc, 4}, Aim{0, 0x7'ffff, 2}}) {
    bench.board.set_config(window + 4, 1, aim.bar);
    bench.board.set_config(window + 8, 4, aim.offset);
    bench.board.set_config(window + 12, 4, aim.length);
    bench.board.set_config(window + 16, 4, 0x0101'0101);
    bench.board.config(window + 16, 4);
    CHECK(bench.driver.status() == 0);
  }
}

TEST_CASE("virtio-pci: a hundred unbinds and binds leave a working device") {
  Bench bench;
  int answered = 0;
  for (int i = 0; i < 100; ++i) {
    REQUIRE(bench.driver.start(kFeatures, i % 2 == 0) == 0x0f);
    bench.driver.send(0, "x");
    answered += bench.driver.queue(0).take_used().has_value() ? 1 : 0;
    bench.driver.reset();
    bench.board.set_config(bench.board.find_capability(0x11) + 2, 2, 0);
    bench.board.set_config(0x04, 2, 0);
    bench.board.set_config(0x04, 2, 6);
  }
  CHECK(answered == 100);
  CHECK(bench.device.activations == 100);
  CHECK(bench.device.resets == 100);
}

TEST_CASE("virtio-pci: destroying the function resets a device that is active") {
  EchoDevice device;
  {
    TestBoard board(device);
    TestDriver driver(board);
    driver.start(kFeatures);
  }
  CHECK(device.resets == 1);
}

TEST_CASE(
    "virtio-pci: vCPUs that move the BAR, mask vectors and raise interrupts do not disturb "
    "another") {
  Bench bench;
  bench.driver.start(kFeatures);
  std::atomic<int> rounds{0};
  std::thread mover([&] {
    for (int i = 0; i < 2000; ++i) bench.board.set_config(0x04, 2, i % 2 == 0 ? 0 : 2);
    ++rounds;
  });
  std::thread interrupter([&] {
    for (int i = 0; i < 2000; ++i) bench.device.interrupts_->config_interrupt();
    ++rounds;
  });
  for (int i = 0; i < 2000; ++i) {
    bench.board.set_mmio(TestBoard::kMsixTable + 12, 4, static_cast<std::uint64_t>(i % 2));
    bench.board.mmio(20, 1);
  }
  mover.join();
  interrupter.join();
  bench.board.set_config(0x04, 2, 2);
  CHECK(rounds == 2);
  CHECK(bench.driver.status() == 0x0f);
}

}  // namespace
}  // namespace kvitest
