#include "native/platform/pci_hotplug.h"

#include <doctest/doctest.h>

#include <vector>

#include "native/error.h"
#include "native/platform/test_access.h"

namespace kvitest {
namespace {

constexpr std::uint32_t kGsi = 6;

struct Bench {
  RecordingInterrupts interrupts;
  std::vector<int> ejected;
  PciHotplug hotplug{interrupts, kGsi, [this](std::uint8_t slot) { ejected.push_back(slot); }};

  Bench() {
    hotplug.add(2);
    hotplug.add(31);
  }
  std::uint32_t events() { return port_in<std::uint32_t>(hotplug, 0); }
  std::uint32_t present() { return port_in<std::uint32_t>(hotplug, 4); }
  void eject(std::uint32_t slots) { port_out<std::uint32_t>(hotplug, 8, slots); }
};

TEST_CASE("pci hotplug: a request is an event that is read once, with one edge of its interrupt") {
  Bench bench;
  CHECK(bench.present() == (1u << 2 | 1u << 31));
  CHECK(bench.hotplug.request(31));
  CHECK(bench.interrupts.changes() ==
        std::vector<std::pair<std::uint32_t, bool>>{{kGsi, true}, {kGsi, false}});
  CHECK(bench.events() == 1u << 31);
  CHECK(bench.events() == 0);
  CHECK(bench.hotplug.has(31));
}

TEST_CASE("pci hotplug: an eject lets go of the slots that have a device, and tells of each once") {
  Bench bench;
  bench.eject(1u << 2 | 1u << 3 | 1);
  bench.eject(1u << 2);
  CHECK(bench.ejected == std::vector<int>{2});
  CHECK(bench.present() == 1u << 31);
  CHECK_FALSE(bench.hotplug.request(2));
  CHECK_FALSE(bench.hotplug.vanish(3, [] { FAIL("an empty slot"); }));
}

TEST_CASE("pci hotplug: a device that vanishes is gone at once, and the guest is told to look") {
  Bench bench;
  bench.hotplug.request(2);
  std::size_t told_before = 0;
  CHECK(bench.hotplug.vanish(2, [&] { told_before = bench.interrupts.changes().size(); }));
  CHECK(told_before == 2);
  CHECK(bench.interrupts.changes().size() == 4);
  CHECK(bench.present() == 1u << 31);
  CHECK(bench.events() == 1);
  CHECK(bench.ejected.empty());
}

TEST_CASE("pci hotplug: only whole registers count") {
  Bench bench;
  bench.hotplug.request(2);
  CHECK(port_in<std::uint8_t>(bench.hotplug, 0) == 0);
  port_out<std::uint8_t>(bench.hotplug, 8, 4);
  CHECK(bench.ejected.empty());
  CHECK(bench.events() == 1u << 2);
}

TEST_CASE("pci hotplug: a checkpoint keeps what is empty and what was not read yet") {
  Bench bench;
  bench.eject(1u << 2);
  bench.hotplug.request(31);
  StateWriter writer;
  bench.hotplug.save(writer);
  const std::vector<std::byte> state = writer.take();
  Bench restored;
  StateReader reader(state);
  restored.hotplug.load(reader);
  CHECK(restored.interrupts.changes().empty());
  restored.hotplug.resume();
  CHECK(restored.interrupts.changes().size() == 2);
  CHECK_FALSE(restored.hotplug.has(2));
  CHECK(restored.events() == 1u << 31);

  PciHotplug empty(restored.interrupts, kGsi, [](std::uint8_t) {});
  StateReader again(state);
  CHECK_THROWS_AS(empty.load(again), Error);
}

}  // namespace
}  // namespace kvitest
