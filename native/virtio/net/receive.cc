// Frames to the driver (virtio 1.3, 5.1.6.3 and 5.1.6.4).
#include <algorithm>
#include <utility>
#include <vector>

#include "native/net/offload.h"
#include "native/virtio/net/device.h"

namespace kvitest {
namespace {

// Of one call: more wait for the next, so that no thread stays here for long.
constexpr std::size_t kFramesAtOnce = 512;

std::size_t address_bytes(std::span<const std::byte> frame, std::size_t ip, std::size_t& from) {
  const std::uint16_t type = be16(frame, ip - 2);
  if (type == kEtherIpv4 && frame.size() >= ip + kIpv4Header + 4) {
    from = ip + 12;
    return 8;
  }
  if (type == kEtherIpv6 && frame.size() >= ip + 44) {
    from = ip + 8;
    return 32;
  }
  return 0;
}

}  // namespace

std::uint8_t flow_hash(std::span<const std::byte> frame) {
  std::size_t ip = kEthernetHeader;
  if (frame.size() < ip + 4) return 0;
  if (be16(frame, 12) == kEtherVlan) ip += 4;
  std::size_t from = 0;
  // The ports follow the addresses when there are no IP options.
  const std::size_t length = address_bytes(frame, ip, from);
  std::uint8_t hash = 0;
  const std::size_t end = length == 0 ? 0 : from + length + 4;
  for (std::size_t at = from; at < end; ++at) hash ^= std::to_integer<std::uint8_t>(frame[at]);
  return hash;
}

std::size_t NetDevice::pair_of(const Frame& frame) const {
  if (state_.active_pairs <= 1) return 0;
  const std::size_t pair = steering_[flow_hash(frame.bytes)];
  return pair < state_.active_pairs ? pair : 0;
}

// True when more may wait: another guest may send as fast as this throws away.
bool NetDevice::discard_input() {
  counts_.not_taken += pending_.size();
  pending_.clear();
  for (std::size_t left = kFramesAtOnce; left != 0; --left) {
    if (!link_->receive()) return false;
    ++counts_.not_taken;
  }
  return true;
}

void NetDevice::pump_receive() {
  if (queues_.empty() || !state_.link_up) {
    if (discard_input()) wake_();
    return;
  }
  std::size_t left = kFramesAtOnce;
  for (; left != 0; --left) {
    if (pending_.empty() && !next_frame()) break;
    if (pending_.empty()) continue;
    if (!give(pending_.front(), pair_of(pending_.front()))) break;
    pending_.pop_front();
  }
  if (left == 0) wake_();
  for (std::size_t pair = 0; pair < state_.active_pairs; ++pair) {
    if (queue(2 * pair) != nullptr) interrupt(2 * pair);
  }
}

// 5.1.4.1 and 5.1.4.2: neither side sends longer ones. A VLAN tag is no part of it.
bool NetDevice::exceeds_mtu(const Frame& frame) const {
  if (!negotiated(kNetMtu) || frame.segmentation) return false;
  const std::size_t tag = be16(frame.bytes, 12) == kEtherVlan ? 4 : 0;
  return frame.bytes.size() > kEthernetHeader + tag + spec_.mtu;
}

// Takes one frame from the link, if it has one, and makes of it what the driver can take.
bool NetDevice::next_frame() {
  std::optional<Frame> frame = link_->receive();
  if (!frame) return false;
  if (!wanted(*frame)) {
    ++counts_.filtered;
    return true;
  }
  if (frame->segmentation) {
    const bool is_tcp4 = frame->segmentation->kind == SegmentKind::kTcp4;
    const std::uint64_t feature = is_tcp4 ? kNetGuestTso4 : kNetGuestTso6;
    // Without GUEST_CSUM the driver must not have accepted the others (5.1.3.1).
    if (!negotiated(feature) || !negotiated(kNetGuestCsum)) {
      for (Frame& piece : cut_segments(*frame)) pending_.push_back(std::move(piece));
    }
  }
  if (pending_.empty()) pending_.push_back(std::move(*frame));
  const auto too_long = [this](const Frame& each) { return exceeds_mtu(each); };
  counts_.not_taken += std::erase_if(pending_, too_long);
  if (!negotiated(kNetGuestCsum)) {
    for (Frame& each : pending_) complete_checksum(each);
  }
  return true;
}

bool NetDevice::wanted(const Frame& frame) const {
  const NetFilter& filter = state_.filter;
  const std::span<const std::byte> bytes(frame.bytes);
  if (negotiated(kNetCtrlVlan) && bytes.size() >= kEthernetHeader + 4 &&
      be16(bytes, 12) == kEtherVlan) {
    const unsigned id = be16(bytes, 14) & 0x0fff;
    if ((filter.vlans[id / 64] >> (id % 64) & 1) == 0) return false;
  }
  if (filter.promiscuous) return true;
  MacAddress to;
  std::ranges::transform(bytes.first(to.size()), to.begin(),
                         [](std::byte b) { return std::to_integer<std::uint8_t>(b); });
  const bool is_broadcast = std::ranges::all_of(to, [](std::uint8_t b) { return b == 0xff; });
  if (is_broadcast) return !filter.no_broadcast;
  if ((to[0] & 1) != 0) {
    if (filter.no_multicast) return false;
    return filter.all_multicast || filter.multicast_overflow ||
           std::ranges::find(filter.multicast, to) != filter.multicast.end();
  }
  if (filter.no_unicast) return false;
  return to == state_.mac || filter.all_unicast || filter.unicast_overflow ||
         std::ranges::find(filter.unicast, to) != filter.unicast.end();
}

// How many of the buffers held, from the first on, take that many bytes; 0: not enough yet.
std::size_t NetDevice::gather(Receive& receive, VirtQueue& ring, std::size_t bytes) {
  const bool merges = negotiated(kNetMrgRxbuf);
  std::size_t useless = request_budget(ring);
  std::uint64_t room = 0;
  for (std::size_t count = 0; count < receive.held.size() || receive.held.size() < ring.size();) {
    if (count == receive.held.size()) {
      auto chain = ring.pop();
      if (!chain) return 0;
      // The header must fit into a buffer by itself (5.1.6.3.1).
      if (chain->writable() < kNetHeader) {
        ring.push_used(*chain, 0);
        if (--useless == 0) {
          ring.request_notification();
          return 0;
        }
        continue;
      }
      receive.held.push_back(std::move(*chain));
    }
    room += receive.held[count++].writable();
    if (room >= bytes) return count;
    if (!merges) break;
  }
  return 0;
}

// False when the driver has no buffer for it now.
bool NetDevice::give(const Frame& frame, std::size_t pair) {
  VirtQueue* ring = queue(2 * pair);
  if (ring == nullptr) {
    ++counts_.not_taken;
    return true;
  }
  Receive& receive = receive_[pair];
  const std::size_t count = gather(receive, *ring, kNetHeader + frame.bytes.size());
  if (count == 0) {
    // All that the ring can hold is not enough, or the one that must be: it never will be.
    const std::size_t most = negotiated(kNetMrgRxbuf) ? ring->size() : 1;
    if (receive.held.size() < most) return false;
    ++counts_.not_taken;
    return true;
  }
  std::span<const std::byte> rest(frame.bytes);
  const auto header = make_header(frame, static_cast<std::uint16_t>(count));
  std::vector<UsedBuffer> used;
  used.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    DescriptorChain& chain = receive.held[i];
    if (i == 0) chain.write(header);
    rest = rest.subspan(chain.write(rest));
    used.push_back({&chain, chain.written()});
  }
  for (Stream& stream : streams_) stream.run = 0;
  // Together: a driver that sees the first of a frame's buffers takes the others at once.
  ring->push_used(used);
  receive.held.erase(receive.held.begin(),
                     receive.held.begin() + static_cast<std::ptrdiff_t>(count));
  return true;
}

}  // namespace kvitest
