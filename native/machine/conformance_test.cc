// The driver that breaks the rules, with sanitizers watching what the devices do about it. Without
// them src/native/virtio-conformance.test.ts runs it, case by case, and there is no test here.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "native/machine/test_machine.h"

namespace kvitest {
namespace {

template <typename Spec>
void add(MachineSpec& machine, Spec spec, bool mmio, bool resets_queues = true) {
  DeviceSpec device(std::move(spec));
  device.transport.mmio = mmio;
  device.transport.with_features = {"ring_packed", "in_order"};
  if (resets_queues) device.transport.with_features.emplace_back("ring_reset");
  machine.devices.push_back(std::move(device));
}

// As virtio_conformance.c wants it.
MachineSpec conformance() {
  MachineSpec machine = bare("virtio_conformance", 3);
  machine.memory = 8 << 20;
  machine.irqchip = true;
  for (const bool mmio : {false, true}) {
    const std::string place = mmio ? "mmio" : "pci";
    BlkSpec blk;
    blk.name = "disk-" + place;
    blk.backing = MemoryBacking{4 << 20};
    blk.queue_size = 64;
    ScsiLunSpec lun;
    lun.name = "lun-" + place;
    lun.backing = MemoryBacking{4 << 20};
    ScsiSpec scsi;
    scsi.name = "scsi-" + place;
    scsi.luns = {lun};
    add(machine, RngSpec{}, mmio);
    add(machine, blk, mmio);
    add(machine, BalloonSpec{.name = "balloon-" + place}, mmio, false);
    add(machine, scsi, mmio);
  }
  return machine;
}

TEST_CASE("machine: a driver that breaks every rule is answered" * doctest::skip(no_kvm())) {
  TestMachine machine(conformance());
  machine.create();
  machine.start();

  const MachineEnd end = machine.wait_for_end(std::chrono::seconds(600));

  const std::string text = "\n" + machine.text("debug");
  CAPTURE(text);
  CHECK(end.reason == "test-exit");
  CHECK(end.code == 0);
  CHECK(text.find("\nnot ok ") == std::string::npos);
  CHECK(std::ranges::count(text, '\n') > 250);
}

}  // namespace
}  // namespace kvitest
#endif
