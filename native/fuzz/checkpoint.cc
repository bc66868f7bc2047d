// Checkpoints of devices at work, with bytes changed: refused, or a device that works on.
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "native/disk/disk.h"
#include "native/error.h"
#include "native/fuzz/deaf_sinks.h"
#include "native/fuzz/hostile_driver.h"
#include "native/fuzz/input.h"
#include "native/fuzz/target.h"
#include "native/net/peer.h"
#include "native/state/archive.h"
#include "native/virtio/balloon/balloon.h"
#include "native/virtio/blk/blk.h"
#include "native/virtio/net/net.h"
#include "native/virtio/p9/p9.h"
#include "native/virtio/rng/rng.h"
#include "native/virtio/scsi/scsi.h"

namespace kvitest {
namespace {

constexpr std::uint16_t kMostQueues = 8;
// Of the memory; the driver's rings and buffers are from 64 KiB on.
constexpr std::size_t kUsedByDriver = 256 * 1024;

struct Sinks {
  DeafConsole console;
  DeafVsock vsock;
};

std::unique_ptr<VirtioDevice> make_device(std::uint8_t which, Sinks& sinks, bool restored) {
  switch (which % 8) {
    case 0:
      return make_rng({});
    case 1: {
      BlkSpec spec;
      spec.name = "disk0";
      spec.backing = MemoryBacking{1 << 20};
      spec.queues = 2;
      return make_blk(spec, open_disk(spec.backing, false));
    }
    case 2: {
      NetSpec spec;
      spec.name = "net0";
      spec.mac = {0x02, 0, 0, 0, 0, 2};
      spec.queue_pairs = 2;
      return make_net(spec, make_peer(), [] {});
    }
    case 3: {
      ConsoleSpec spec;
      spec.ports = {{"hvc0", true}, {"org.kvitest.agent", false}};
      return make_console(spec, sinks.console);
    }
    case 4:
      return make_vsock({.name = "vsock0"}, sinks.vsock);
    case 5:
      return make_balloon({.name = "balloon0"});
    case 6: {
      ScsiSpec spec;
      spec.name = "scsi0";
      for (const std::uint8_t number : {0, 1}) {
        ScsiLunSpec lun;
        lun.name = "lun" + std::to_string(number);
        lun.backing = MemoryBacking{1 << 20};
        lun.lun = number;
        spec.luns.push_back(lun);
      }
      const OpenLun open = [](const ScsiLunSpec& one) {
        return open_disk(one.backing, one.read_only);
      };
      return make_scsi(spec, open, restored);
    }
    default:
      return make_p9({.tag = "usr", .path = "/usr", .read_only = true});
  }
}

// A device, and a driver that has made requests of it.
struct Bench {
  Bench(std::uint8_t which, bool restored)
      : device(make_device(which, sinks, restored)), board(with_all_features(*device)) {}

  // Of a device that is paused.
  std::vector<std::byte> save() const {
    StateWriter writer;
    board.save(writer);
    return writer.take();
  }

  void start(std::uint8_t how) {
    const std::uint64_t left_out =
        ((how & 1) != 0 ? 0 : kFeatureRingPacked) | ((how & 2) != 0 ? 0 : kFeatureInOrder);
    driver.start(driver.device_features() & ~left_out, (how & 4) == 0);
  }

  Sinks sinks;
  std::unique_ptr<VirtioDevice> device;
  TestBoard board;
  TestDriver driver{board};
};

}  // namespace

void fuzz_checkpoint(std::span<const std::byte> bytes) {
  FuzzInput input(bytes);
  const std::uint8_t which = input.u8();
  const std::uint8_t how = input.u8();
  Bench parent(which, false);
  if ((how & 8) == 0) parent.start(how);
  const auto queues = static_cast<std::uint16_t>(parent.board.mmio(18, 2));
  for (std::size_t requests = (how & 8) == 0 ? how >> 4 : 0; requests != 0; --requests) {
    const auto queue = static_cast<std::uint16_t>(input.u8() % queues);
    const std::uint8_t what = input.u8();
    if (what < 64) {
      parent.driver.offer(queue, 1 + what);
    } else {
      const auto said = input.bytes(what - 63u);
      parent.driver.send(queue, {reinterpret_cast<const char*>(said.data()), said.size()});
    }
  }

  // The parent stays paused: its memory is copied as its state is.
  parent.device->pause();
  std::vector<std::byte> checkpoint = parent.save();
  for (int changes = 0; changes < 32 && !input.empty(); ++changes) {
    const std::size_t at = input.u16() % checkpoint.size();
    checkpoint[at] = std::byte{input.u8()};
  }

  Bench child(which, true);
  // Not the whole of it: that would be most of the time.
  std::vector<std::byte> memory(kUsedByDriver);
  if (!parent.board.memory.read(0, memory) || !child.board.memory.write(0, memory)) std::abort();
  child.driver.adopt(parent.driver);
  StateReader reader(checkpoint);
  try {
    child.board.load(reader);
    reader.finish();
  } catch (const Error&) {
    return;
  }
  child.board.resume();
  for (std::uint16_t queue = 0; queue < kMostQueues; ++queue) child.driver.notify(queue);
  child.device->pause();
  child.save();
  child.device->unpause();
  if (child.board.mmio(18, 2) == queues) child.start(how);  // its BAR may be elsewhere
}

}  // namespace kvitest
