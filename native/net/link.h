// One end of a network, as a network device sees it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace kvitest {

// The sum that a sender left to do: over the bytes from `start` to the end, stored `offset` bytes
// behind `start`, where the pseudo header's sum already is (virtio 1.3, 5.1.6.2).
struct PartialChecksum {
  std::uint16_t start = 0;
  std::uint16_t offset = 0;
};

enum class SegmentKind : std::uint8_t { kTcp4, kTcp6 };

// A frame that stands for several: its TCP payload is to be cut into pieces of `size` bytes.
struct Segmentation {
  SegmentKind kind = SegmentKind::kTcp4;
  std::uint16_t size = 0;
};

// An Ethernet frame from the destination address on, without FCS. A segmented one has a partial
// checksum.
struct Frame {
  std::vector<std::byte> bytes;
  std::optional<PartialChecksum> checksum;
  std::optional<Segmentation> segmentation;
};

inline constexpr std::size_t kEthernetHeader = 14;
// An IP packet of 65535 bytes behind an Ethernet header with a VLAN tag.
inline constexpr std::size_t kMaxFrame = kEthernetHeader + 4 + 65535;

struct LinkCounts {
  std::uint64_t sent = 0;      // taken from the device
  std::uint64_t received = 0;  // given to it
  std::uint64_t dropped = 0;   // lost on the way to it, for want of room
};

// Locks itself: any thread may call it. No call waits for another guest.
class Link {
 public:
  virtual ~Link() = default;
  virtual void send(Frame frame) = 0;
  // The next frame for the device.
  virtual std::optional<Frame> receive() = 0;
  // The device may have lost frames that it was given: one that keeps no clock sends them again.
  virtual void frames_lost() {}
  virtual LinkCounts counts() const = 0;
};

// Called by a link when receive() has something again; on any thread, within a lock of the link: it
// must not call the link, and not block.
using FramesWaiting = std::function<void()>;

}  // namespace kvitest
