// Each device behind its transport, driven by a hostile driver; the host's side does its part.
#include <string>

#include "native/disk/disk.h"
#include "native/error.h"
#include "native/fuzz/deaf_sinks.h"
#include "native/fuzz/hostile_driver.h"
#include "native/fuzz/input.h"
#include "native/fuzz/target.h"
#include "native/net/peer.h"
#include "native/virtio/balloon/balloon.h"
#include "native/virtio/blk/blk.h"
#include "native/virtio/console/console.h"
#include "native/virtio/net/net.h"
#include "native/virtio/rng/rng.h"
#include "native/virtio/scsi/scsi.h"
#include "native/virtio/vsock/vsock.h"

namespace kvitest {
void fuzz_rng(std::span<const std::byte> bytes) {
  FuzzInput input(bytes);
  const auto device = make_rng({});
  HostileDriver(*device).run(input);
}

void fuzz_balloon(std::span<const std::byte> bytes) {
  FuzzInput input(bytes);
  const auto device = make_balloon({.name = "balloon0"});
  const std::uint8_t how = input.u8();
  if ((how & 1) != 0) device->withhold(kBalloonStats);
  if ((how & 2) != 0) device->withhold(kBalloonFreePageHint);
  if ((how & 4) != 0) device->ask_for(kBalloonMustTellHost | kFeatureRingPacked);
  HostileDriver(*device).run(input, [&](FuzzInput& more) {
    try {
      switch (more.u8() % 3) {
        case 0:
          device->set_target(std::uint64_t{more.u32()} * kPageSize);
          break;
        case 1:
          device->ask_statistics();
          break;
        default:
          device->ask_hints();
      }
    } catch (const Error&) {
      // no driver that gives hints
    }
  });
}

void fuzz_scsi(std::span<const std::byte> bytes) {
  FuzzInput input(bytes);
  const auto lun = [](const std::string& name, std::uint8_t number) {
    ScsiLunSpec spec;
    spec.name = name;
    spec.backing = MemoryBacking{1 << 20};
    spec.lun = number;
    return spec;
  };
  ScsiSpec spec;
  spec.name = "scsi0";
  spec.luns = {lun("a", 0), lun("b", 1)};
  spec.queue_size = 16;
  const std::uint8_t how = input.u8();
  spec.luns[1].read_only = (how & 1) != 0;
  spec.queues = (how & 2) != 0 ? 2 : 1;
  const OpenLun open = [](const ScsiLunSpec& one) { return open_disk(one.backing, one.read_only); };
  const auto device = make_scsi(spec, open, false);
  HostileDriver(*device).run(input, [&](FuzzInput& more) {
    try {
      switch (more.u8() % 3) {
        case 0:
          device->attach_lun(lun("c", more.u8()), open_disk(MemoryBacking{4096}, false));
          break;
        case 1:
          device->detach_lun((more.u8() & 1) != 0 ? "c" : "b");
          break;
        default:
          device->resize("a", std::uint64_t{more.u16()} * 512);
      }
    } catch (const Error&) {
      // there already, gone already, or a size that no disk has
    }
  });
}

void fuzz_blk(std::span<const std::byte> bytes) {
  FuzzInput input(bytes);
  BlkSpec spec;
  spec.name = "disk0";
  spec.backing = MemoryBacking{1 << 20};
  spec.queue_size = 16;
  const std::uint8_t how = input.u8();
  spec.read_only = (how & 1) != 0;
  spec.queues = (how & 2) != 0 ? 2 : 1;
  spec.block_size = (how & 4) != 0 ? 4096 : 512;
  const auto device = make_blk(spec, open_disk(spec.backing, spec.read_only));
  HostileDriver(*device).run(input, [&](FuzzInput& more) {
    try {
      device->resize(std::uint64_t{more.u16()} * spec.block_size);
    } catch (const Error&) {
      // a size that no disk has
    }
  });
}

void fuzz_net(std::span<const std::byte> bytes) {
  FuzzInput input(bytes);
  NetSpec spec;
  spec.name = "net0";
  spec.mac = {0x02, 0, 0, 0, 0, 2};
  const std::uint8_t how = input.u8();
  spec.mtu = (how & 1) != 0 ? 1500 : 0;
  spec.queue_pairs = (how & 2) != 0 ? 2 : 1;
  const auto device = make_net(spec, make_peer(), [] {});
  HostileDriver(*device).run(input, [&](FuzzInput& more) {
    const std::uint8_t what = more.u8();
    if (what < 32) device->set_link((what & 1) != 0);
    device->deliver();
  });
}

void fuzz_console(std::span<const std::byte> bytes) {
  FuzzInput input(bytes);
  DeafConsole sink;
  ConsoleSpec spec;
  spec.ports = {{"hvc0", true}, {"org.kvitest.agent", false}};
  const auto device = make_console(spec, sink);
  HostileDriver(*device).run(input, [&](FuzzInput& more) {
    const std::uint8_t what = more.u8();
    const std::string port = (what & 1) != 0 ? "hvc0" : "org.kvitest.agent";
    switch ((what >> 1) % 5) {
      case 0:
        device->host_open(port, (what & 0x80) != 0);
        break;
      case 1:
        device->host_write(port, more.bytes(more.u8()));
        break;
      case 2:
        device->consumed("hvc0", 0);
        break;
      case 3:
        device->resize(port, more.u16(), more.u16());
        break;
      default:
        device->drain();
    }
  });
}

void fuzz_vsock(std::span<const std::byte> bytes) {
  FuzzInput input(bytes);
  DeafVsock sink;
  const auto device = make_vsock({.name = "vsock0"}, sink);
  device->listen(1024, true);
  HostileDriver(*device).run(input, [&](FuzzInput& more) {
    const std::uint8_t what = more.u8();
    try {
      switch (what % 5) {
        case 0:
          sink.connection = device->connect(more.u16());
          break;
        case 1:
          if (device->has(sink.connection)) {
            device->host_write(sink.connection, more.bytes(more.u8()));
          }
          break;
        case 2:
          if (device->has(sink.connection)) device->close(sink.connection, (what & 0x80) != 0);
          break;
        case 3:
          device->listen(more.u16(), (what & 0x80) != 0);
          break;
        default:
          break;
      }
    } catch (const Error&) {
      // too many connections, or no driver
    }
  });
}

}  // namespace kvitest
