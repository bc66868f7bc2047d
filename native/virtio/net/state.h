// What a virtio-net remembers, apart from what it does.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "native/net/packet.h"
#include "native/state/archive.h"
#include "native/virtio/queue.h"

namespace kvitest {

inline constexpr std::size_t kMaxMacTable = 64;

// Which frames the driver wants (virtio 1.3, 5.1.6.5.1 to 5.1.6.5.3). A driver that never says so
// gets all.
struct NetFilter {
  bool promiscuous = true;
  bool all_multicast = false;
  bool all_unicast = false;
  bool no_multicast = false;
  bool no_unicast = false;
  bool no_broadcast = false;
  // A table longer than ours lets all of its kind pass.
  bool unicast_overflow = false;
  bool multicast_overflow = false;
  std::vector<MacAddress> unicast;
  std::vector<MacAddress> multicast;
  std::array<std::uint64_t, 64> vlans{};  // a bit for each VLAN id
  template <typename Archive>
  void fields(Archive& archive) {
    archive(promiscuous, all_multicast, all_unicast, no_multicast, no_unicast, no_broadcast,
            unicast_overflow, multicast_overflow, unicast, multicast, vlans);
  }
};

struct NetState {
  static constexpr StateTag kTag{"virtio-net", 1};
  std::uint16_t queue_pairs = 1;  // saved to be compared
  std::uint16_t mtu = 0;          // saved to be compared
  MacAddress mac{};
  bool link_up = true;
  bool announce = false;           // VIRTIO_NET_S_ANNOUNCE, until the driver acknowledges it
  std::uint16_t active_pairs = 1;  // that the driver uses
  std::uint8_t config_generation = 0;
  NetFilter filter;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(queue_pairs, mtu, mac, link_up, announce, active_pairs, config_generation, filter);
  }
};

// What one whose rings the host's kernel has remembers.
struct VhostNetState {
  static constexpr StateTag kTag{"virtio-net-vhost", 1};
  std::uint16_t mtu = 0;  // saved to be compared
  MacAddress mac{};
  bool link_up = true;
  std::uint8_t config_generation = 0;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(mtu, mac, link_up, config_generation);
  }
};

// Receive buffers that were taken from the ring and not yet used, by queue pair. A frame that
// waited for more of them is lost with a checkpoint.
struct NetBuffers {
  static constexpr StateTag kTag{"virtio-net-buffers", 2};
  std::vector<std::vector<ChainState>> pairs;
  template <typename Archive>
  void fields(Archive& archive) {
    archive(pairs);
  }
};

}  // namespace kvitest
