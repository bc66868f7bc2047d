// Frames from the driver (virtio 1.3, 5.1.6.2).
#include <array>
#include <utility>

#include "native/virtio/net/device.h"

namespace kvitest {

namespace {

// A conversation, whose frames go to and fro, never comes so far; a stream does at once.
constexpr std::size_t kStreamFrames = 8;
// On one CPU the driver sends only when the device loop lets it: after the first of them.
constexpr std::size_t kFruitlessLooks = 2;

}  // namespace

// Frames that were taken.
std::size_t NetDevice::pump_transmit(std::size_t pair) {
  const std::size_t index = 2 * pair + 1;
  // Queues beyond the first pair are the control queue or nothing to a driver without MQ.
  VirtQueue* ring = pair == 0 || negotiated(kNetMq) ? queue(index) : nullptr;
  if (ring == nullptr) return 0;
  const Stream& stream = streams_[pair];
  const std::size_t budget = request_budget(*ring);
  std::size_t left = budget;
  for (; left != 0; --left) {
    // pop() asks for a doorbell when it finds the ring empty.
    if (stream.running && ring->available() == 0) break;
    auto chain = ring->pop();
    if (!chain) break;
    transmit(*chain, pair);
    ring->push_used(*chain, 0);
  }
  // The device loop comes back to a stream by itself.
  if (left == 0 && !stream.running) ring->request_notification();
  interrupt(index);
  return budget - left;
}

// After the driver rang: does it send one frame after the other?
void NetDevice::begin_stream(std::size_t pair) {
  Stream& stream = streams_[pair];
  if (stream.running || stream.run < kStreamFrames) return;
  stream.running = true;
  stream.fruitless = 0;
  wake_();
}

// On the device loop. True while there is a stream to come back to.
bool NetDevice::follow_streams() {
  bool any = false;
  for (std::size_t pair = 0; pair < streams_.size(); ++pair) {
    Stream& stream = streams_[pair];
    if (!stream.running) continue;
    stream.fruitless = pump_transmit(pair) == 0 ? stream.fruitless + 1 : 0;
    if (stream.fruitless < kFruitlessLooks) {
      any = true;
      continue;
    }
    stream = {};
    pump_transmit(pair);  // and asks for a doorbell
  }
  return any;
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
  ++streams_[pair].run;
  link_->send(std::move(frame));
}

}  // namespace kvitest
