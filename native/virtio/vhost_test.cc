#include "native/virtio/vhost.h"

#include <doctest/doctest.h>

#include <array>
#include <cerrno>
#include <set>
#include <utility>

#include "native/bus/doorbells.h"
#include "native/bus/test_irqfds.h"
#include "native/error.h"
#include "native/little_endian.h"
#include "native/virtio/features.h"
#include "native/virtio/pci_interrupts.h"
#include "native/virtio/test_driver.h"

namespace kvitest {
namespace {

struct TestDoorbells : Doorbells {
  void add(std::uint64_t address, int eventfd) override { there.insert({address, eventfd}); }
  void remove(std::uint64_t address, int eventfd) override { there.erase({address, eventfd}); }
  using Set = std::set<std::pair<std::uint64_t, int>>;
  Set there;
};

// A device of the host's kernel, without one.
struct Kernel : VirtioDevice {
  std::uint32_t type() const override { return 19; }
  std::uint64_t features() const override { return 0; }
  bool rings_are_of_host() const override { return true; }
  int doorbell(std::uint16_t queue) const override { return queue < 2 ? 100 + queue : -1; }
  std::vector<std::uint16_t> queue_sizes() const override { return {8, 8, 8}; }
  void read_config(std::uint64_t, std::span<std::byte>) override {}
  void activate(std::uint64_t, std::span<VirtQueue* const>, VirtioInterrupts&) override {}
  void notify(std::uint16_t) override {}
  void reset() override {}
  void save(StateWriter&) const override {}
  void load(StateReader&, const VirtioActivation*) override {}
  void resume() override {}
};

struct NoBackend : VhostBackend {
  void begin(std::uint64_t) override {}
  void end() override {}
};

constexpr std::uint64_t kBar = 0xd000'0000;
constexpr std::uint64_t kNotify = 0x6000;

TestDoorbells::Set at(std::uint64_t bar) {
  return {{bar + kNotify, 100}, {bar + kNotify + 4, 101}};
}

void write_config(PciFunction& function, std::uint8_t offset, std::uint32_t value) {
  std::array<std::byte, 4> bytes{};
  write_le(bytes, value);
  function.config_write(offset, bytes);
}

}  // namespace

TEST_CASE("doorbells: they are where the BAR decodes, one for each queue that has one") {
  TestDoorbells doorbells;
  IoBus bus(&doorbells);
  TestInterrupts interrupts;
  GuestMemory memory(1 << 20);
  Kernel device;
  auto function = make_virtio_pci(device, memory, bus, interrupts, kBar, 5);
  CHECK(doorbells.there == at(kBar));
  // The low half of the BAR, then memory decoding off and on (the command register).
  write_config(*function, 0x10, 0xd100'0000);
  CHECK(doorbells.there == at(0xd100'0000));
  write_config(*function, 0x04, 0);
  CHECK(doorbells.there.empty());
  write_config(*function, 0x04, 2);
  CHECK(doorbells.there == at(0xd100'0000));
  function->unplug();
  CHECK(doorbells.there.empty());
}

TEST_CASE("doorbells: they leave with the function") {
  TestDoorbells doorbells;
  IoBus bus(&doorbells);
  TestInterrupts interrupts;
  GuestMemory memory(1 << 20);
  Kernel device;
  make_virtio_pci(device, memory, bus, interrupts, kBar, 5);
  CHECK(doorbells.there.empty());
}

TEST_CASE("irqfds: a queue's goes where its vector goes, until the device is reset") {
  using There = TestIrqfds::There;
  constexpr std::uint16_t kMsixEnable = 0x8000;
  TestIrqfds controller;
  VirtioPciInterrupts interrupts(controller, 5, 2, 2);
  for (std::uint32_t vector = 0; vector < 3; ++vector) {
    std::array<std::byte, 8> data{};
    write_le(data, 0x40u + vector);  // and not masked
    interrupts.msix().table_write(kMsixEntrySize * vector + 8, data);
  }
  interrupts.set_msix_control(kMsixEnable);
  interrupts.add_queue_irqfd(0, 7);
  CHECK(controller.there.empty());
  interrupts.set_queue_vector(0, 1);
  CHECK(controller.there == There{{7, 0x41}});
  interrupts.set_queue_vector(1, 2);
  interrupts.add_queue_irqfd(1, 8);
  interrupts.set_queue_vector(0, 2);
  CHECK(controller.there == There{{7, 0x42}, {8, 0x42}});
  interrupts.remove_queue_irqfd(1);
  interrupts.remove_queue_irqfd(1);
  CHECK(controller.there == There{{7, 0x42}});
  interrupts.set_queue_vector(0, 3);  // none of the three
  CHECK(controller.there.empty());
  interrupts.set_queue_vector(0, 1);
  interrupts.reset();
  CHECK(controller.there.empty());
  interrupts.set_queue_vector(0, 1);
  CHECK(controller.there.empty());
}

TEST_CASE("vhost: packed rings are not to be asked for") {
  const Kernel device;
  const std::vector<std::string> names{"ring_packed"};
  CHECK_THROWS_WITH_AS(optional_features(device, names), doctest::Contains("no packed rings"),
                       Error);
}

TEST_CASE("vhost: a host without the device is named, with what makes it") {
  const GuestMemory memory(1 << 20);
  NoBackend backend;
  try {
    const Vhost vhost({"vsock0", "/dev/vhost-none", "vhost_none", 2, 2, "do without"}, memory,
                      backend);
    FAIL("it was opened");
  } catch (const Error& error) {
    CHECK(error.code() == ENOENT);
    CHECK(std::string(error.what()) ==
          "open vhost: /dev/vhost-none of this host, for vsock0 (No such file or directory); load "
          "its module (modprobe vhost_none), or do without");
  }
}

}  // namespace kvitest
