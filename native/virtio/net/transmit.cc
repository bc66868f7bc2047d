// Frames from the driver (virtio 1.3, 5.1.6.2).
#include <array>
#include <utility>

#include "native/virtio/net/device.h"

namespace kvitest {

void NetDevice::pump_transmit(std::size_t pair) {
  const std::size_t index = 2 * pair + 1;
  // Queues beyond the first pair are the control queue or nothing to a driver without MQ.
  VirtQueue* ring = pair == 0 || negotiated(kNetMq) ? queue(index) : nullptr;
  if (ring == nullptr) return;
  std::size_t left = request_budget(*ring);
  for (; left != 0; --left) {
    auto chain = ring->pop();
    if (!chain) break;
    transmit(*chain, pair);
    ring->push_used(*chain, 0);
  }
  if (left == 0) ring->request_notification();
  interrupt(index);
}

void NetDevice::transmit(DescriptorChain& chain, std::size_t pair) {
  const std::uint64_t size = chain.readable();
  std::array<std::byte, kNetHeader> header{};
  Frame frame;
  bool good = size >= kNetHeader + kEthernetHeader && size <= kNetHeader + kMaxFrame;
  if (good) {
    chain.read(header);
    frame.bytes.resize(size - kNetHeader);
    chain.read(frame.bytes);
    good = apply_header(header, features_, frame) && !exceeds_mtu(frame);
  }
  if (!good) {
    ++counts_.refused;
    return;
  }
  if (!state_.link_up) return;
  if (state_.active_pairs > 1) steering_[flow_hash(frame.bytes)] = static_cast<std::uint8_t>(pair);
  link_->send(std::move(frame));
}

}  // namespace kvitest
