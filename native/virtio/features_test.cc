#include "native/virtio/features.h"

#include <doctest/doctest.h>

#include <memory>
#include <string>
#include <vector>

#include "native/error.h"
#include "native/net/peer.h"
#include "native/virtio/blk/blk.h"
#include "native/virtio/console/console.h"
#include "native/virtio/net/net.h"
#include "native/virtio/rng/rng.h"
#include "native/virtio/test_driver.h"
#include "native/virtio/vsock/vsock.h"

namespace kvitest {
namespace {

struct Deaf : ConsoleSink {
  void port_data(const std::string&, std::span<const std::byte>) override {}
  void port_open(const std::string&, bool) override {}
  void port_writable(const std::string&, std::size_t) override {}
};

struct Mute : VsockSink {
  void vsock_open(const std::string&, VsockConnection, std::uint32_t, std::uint32_t) override {}
  std::size_t vsock_data(const std::string&, VsockConnection, std::span<const iovec>) override {
    return 0;
  }
  void vsock_end(const std::string&, VsockConnection) override {}
  void vsock_close(const std::string&, VsockConnection) override {}
  void vsock_writable(const std::string&, VsockConnection) override {}
};

// A device that promises nothing.
struct Plain : VirtioDevice {
  std::uint32_t type() const override { return 4; }
  std::uint64_t features() const override { return 0; }
  std::vector<std::uint16_t> queue_sizes() const override { return {8}; }
  void read_config(std::uint64_t, std::span<std::byte>) override {}
  void activate(std::uint64_t, std::span<VirtQueue* const>, VirtioInterrupts&) override {}
  void notify(std::uint16_t) override {}
  void reset() override {}
  void save(StateWriter&) const override {}
  void load(StateReader&, const VirtioActivation*) override {}
  void resume() override {}
};

TEST_CASE("features: a device lets go of every name it lists, and of the transport's") {
  Deaf sink;
  BlkSpec disk;
  disk.name = "disk0";
  disk.backing = MemoryBacking{4096};
  disk.queues = 2;
  std::vector<std::unique_ptr<VirtioDevice>> devices;
  devices.push_back(make_console({{{"hvc", true}}}, sink));
  devices.push_back(make_rng({}));
  devices.push_back(make_blk(disk, open_disk(disk.backing, false)));
  NetSpec net;
  net.name = "net0";
  net.mtu = 1500;
  net.queue_pairs = 2;
  devices.push_back(make_net(net, make_peer(), [] {}));
  Mute mute;
  devices.push_back(make_vsock({.name = "vsock0", .cid = 3, .without_features = {}}, mute));
  for (const auto& device : devices) {
    std::vector<std::string> names{"indirect_desc", "event_idx"};
    for (const FeatureName& feature : device->feature_names()) {
      // A name of a bit that is not offered would withhold nothing.
      CHECK((device->features() & feature.bit) == feature.bit);
      names.emplace_back(feature.name);
    }
    device->withhold(named_features(*device, names));
    TestBoard board(*device);
    CHECK(TestDriver(board).device_features() == kFeatureVersion1);
  }
}

TEST_CASE("features: the transport's others are offered when they are asked for") {
  const auto device = make_rng({});
  const std::vector<std::string> names{"ring_packed", "in_order", "notification_data",
                                       "ring_reset"};
  device->ask_for(optional_features(*device, names));
  TestBoard board(*device);
  CHECK(TestDriver(board).device_features() ==
        (kUsualTransportFeatures | kOptionalTransportFeatures));
}

TEST_CASE("features: nobody can ask for others, nor for an order that a device does not keep") {
  const auto device = make_rng({});
  const std::vector<std::string> usual{"event_idx"};
  CHECK_THROWS_WITH_AS(optional_features(*device, usual),
                       doctest::Contains("to ask for there are: ring_packed in_order"), Error);
  Plain plain;
  const std::vector<std::string> order{"in_order"};
  CHECK_THROWS_WITH_AS(optional_features(plain, order),
                       doctest::Contains("does not use its buffers in order"), Error);
  const std::vector<std::string> reset{"ring_reset"};
  CHECK_THROWS_WITH_AS(optional_features(plain, reset),
                       doctest::Contains("cannot lose one of its queues"), Error);
}

}  // namespace
}  // namespace kvitest
