// virtio-net (virtio 1.3, 5.1).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "native/memory/guest_memory.h"
#include "native/net/link.h"
#include "native/net/packet.h"
#include "native/virtio/device.h"

namespace kvitest {

struct NetSpec {
  std::string name;  // of the machine's devices, for whoever wants to change it
  MacAddress mac{};
  std::uint16_t mtu = 0;          // 68..65535; 0: VIRTIO_NET_F_MTU is not offered
  std::uint16_t queue_pairs = 1;  // 1..8; from 2 on VIRTIO_NET_F_MQ is offered
  std::string network;            // of the switch
  std::string tap{};              // an interface of the host; neither: the peer
  bool vhost = false;             // the host's kernel serves the rings, to the tap
  std::vector<std::string> without_features{};
};

// Throws Error (EINVAL) naming the first thing that no network device can be.
void validate(const NetSpec& spec);

inline constexpr std::uint16_t kMaxQueuePairs = 8;
inline constexpr std::uint16_t kMinMtu = 68;

struct NetCounts {
  LinkCounts link;
  std::uint64_t refused = 0;    // frames of the driver that break a rule of 5.1.6.2
  std::uint64_t filtered = 0;   // that the driver did not want (5.1.6.5)
  std::uint64_t not_taken = 0;  // that fitted no buffer of the driver, or met no driver
};

class Net : public VirtioDevice {
 public:
  // Carrier, as VIRTIO_NET_F_STATUS tells it. Without it frames are lost in both directions.
  virtual void set_link(bool up) = 0;
  // Of a device that was restored, before resume(): its address from there on. A driver that runs
  // already keeps the one it has read until it is told.
  virtual void set_mac(const MacAddress& mac) = 0;
  // Gives the driver what the link holds for it. On the device loop.
  virtual void deliver() = 0;
  virtual NetCounts counts() const = 0;
};

// On the spec's tap, by vhost-net. The memory must outlive it. Throws Error, as open_tap_file(),
// and ENOENT where the host has no vhost-net.
std::unique_ptr<Net> make_vhost_net(const NetSpec& spec, const GuestMemory& memory);

// spec: as validate() wants it. wake: asks for deliver(); any thread, with locks of the
// device or the link held.
std::unique_ptr<Net> make_net(const NetSpec& spec, std::unique_ptr<Link> link, FramesWaiting wake);

}  // namespace kvitest
