#include "native/virtio/net/net.h"

#include <algorithm>
#include <array>
#include <thread>
#include <utility>

#include "native/error.h"
#include "native/little_endian.h"
#include "native/net/tap.h"
#include "native/virtio/config_image.h"
#include "native/virtio/net/config.h"
#include "native/virtio/net/device.h"

namespace kvitest {
namespace {

constexpr std::uint16_t kControlSize = 64;

NetState initial_state(const NetSpec& spec) {
  NetState state;
  state.queue_pairs = spec.queue_pairs;
  state.mtu = spec.mtu;
  state.mac = spec.mac;
  return state;
}

}  // namespace

NetDevice::NetDevice(const NetSpec& spec, std::unique_ptr<Link> link, FramesWaiting wake)
    : spec_(spec),
      link_(std::move(link)),
      wake_(std::move(wake)),
      state_(initial_state(spec)),
      receive_(spec.queue_pairs),
      streams_(spec.queue_pairs) {}

std::uint32_t NetDevice::type() const {
  return kTypeNet;
}

std::uint64_t NetDevice::features() const {
  std::uint64_t features = kNetCsum | kNetGuestCsum | kNetMac | kNetGuestTso4 | kNetGuestTso6 |
                           kNetHostTso4 | kNetHostTso6 | kNetMrgRxbuf | kNetStatus | kNetCtrlVq |
                           kNetCtrlRx | kNetCtrlVlan | kNetCtrlRxExtra | kNetGuestAnnounce |
                           kNetCtrlMacAddr;
  if (spec_.mtu != 0) features |= kNetMtu;
  if (spec_.queue_pairs > 1) features |= kNetMq;
  return net_features_with_needs(features & ~withheld());
}

std::vector<std::uint16_t> NetDevice::queue_sizes() const {
  std::vector<std::uint16_t> sizes(2u * spec_.queue_pairs, kNetQueueSize);
  if ((features() & kNetCtrlVq) != 0) sizes.push_back(kControlSize);
  return sizes;
}

// All of it is read-only: since virtio 1.0 a driver sets its address through the control queue.
void NetDevice::read_config(std::uint64_t offset, std::span<std::byte> data) {
  const std::lock_guard lock(mutex_);
  const int status =
      (state_.link_up ? kNetStatusLinkUp : 0) | (state_.announce ? kNetStatusAnnounce : 0);
  read_image(net_config(spec_, state_.mac, static_cast<std::uint16_t>(status)), offset, data);
}

std::uint8_t NetDevice::config_generation() {
  const std::lock_guard lock(mutex_);
  return state_.config_generation;
}

void NetDevice::attach(const VirtioActivation& active) {
  features_ = active.features;
  queues_.assign(active.queues.begin(), active.queues.end());
  interrupts_ = &active.interrupts;
}

void NetDevice::activate(std::uint64_t features, std::span<VirtQueue* const> queues,
                         VirtioInterrupts& interrupts) {
  const std::lock_guard lock(mutex_);
  // What came while nobody listened is lost.
  discard_input();
  link_->frames_lost();
  attach({features, queues, interrupts});
  pump_control();
  for (std::size_t pair = 0; pair < spec_.queue_pairs; ++pair) pump_transmit(pair);
  pump_receive();
}

void NetDevice::notify(std::uint16_t index) {
  const std::lock_guard lock(mutex_);
  pump(index);
}

void NetDevice::pump(std::uint16_t index) {
  if (queue(index) == nullptr) return;
  if (index == control_queue()) {
    pump_control();
  } else if (index % 2 == 0) {
    pump_receive();
  } else {
    pump_transmit(index / 2);
    begin_stream(index / 2);
    // The peer has answered already: a detour through another thread would cost more than the
    // answer.
    pump_receive();
  }
}

void NetDevice::reset() {
  const std::lock_guard lock(mutex_);
  forget_driver();
}

void NetDevice::reset_queue(std::uint16_t index) {
  const std::lock_guard lock(mutex_);
  queues_[index] = nullptr;
  if (index % 2 == 0 && index / 2 < receive_.size()) receive_[index / 2] = {};
}

void NetDevice::enable_queue(std::uint16_t index, VirtQueue& queue) {
  const std::lock_guard lock(mutex_);
  queues_[index] = &queue;
  // A driver that has its ring back forgets the frames in it that it had not come to.
  if (index % 2 == 0 && index != control_queue()) link_->frames_lost();
  pump(index);
}

void NetDevice::forget_driver() {
  queues_.clear();
  interrupts_ = nullptr;
  features_ = 0;
  for (Receive& receive : receive_) receive = {};
  for (Stream& stream : streams_) stream = {};
  pending_.clear();
  steering_ = {};
  state_.mac = spec_.mac;
  state_.announce = false;
  state_.active_pairs = 1;
  state_.filter = {};
}

void NetDevice::set_link(bool up) {
  const std::lock_guard lock(mutex_);
  if (state_.link_up == up) return;
  state_.link_up = up;
  // What was on the wire when it was cut.
  discard_input();
  if (up) link_->frames_lost();
  if (!up) state_.announce = false;
  config_changed();
}

void NetDevice::set_mac(const MacAddress& mac) {
  const std::lock_guard lock(mutex_);
  state_.mac = mac;
  ++state_.config_generation;
}

void NetDevice::deliver() {
  bool streams = false;
  {
    const std::lock_guard lock(mutex_);
    streams = follow_streams();
    pump_receive();
  }
  if (!streams) return;
  // Whoever sends gets the CPU, if there is only this one.
  std::this_thread::yield();
  wake_();
}

NetCounts NetDevice::counts() const {
  const std::lock_guard lock(mutex_);
  NetCounts counts = counts_;
  counts.link = link_->counts();
  return counts;
}

void NetDevice::config_changed() {
  ++state_.config_generation;
  if (interrupts_ != nullptr && negotiated(kNetStatus)) interrupts_->config_interrupt();
}

VirtQueue* NetDevice::queue(std::size_t index) const {
  return index < queues_.size() ? queues_[index] : nullptr;
}

// Behind the queues that the driver knows of (5.1.2).
std::size_t NetDevice::control_queue() const {
  return negotiated(kNetMq) ? 2u * spec_.queue_pairs : 2;
}

void NetDevice::interrupt(std::size_t index) {
  if (queues_[index]->needs_interrupt()) {
    interrupts_->queue_interrupt(static_cast<std::uint16_t>(index));
  }
}

void NetDevice::save(StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.save(state_);
  NetBuffers buffers;
  for (const Receive& receive : receive_) {
    std::vector<ChainState>& pair = buffers.pairs.emplace_back(receive.saved);
    for (const DescriptorChain& chain : receive.held) pair.push_back(chain.state());
  }
  writer.save(buffers);
}

void NetDevice::load(StateReader& reader, const VirtioActivation* active) {
  NetState state = reader.load<NetState>();
  if (state.queue_pairs != spec_.queue_pairs || state.mtu != spec_.mtu) {
    reader.fail("another number of queues or another MTU than this device's");
  }
  if (state.active_pairs < 1 || state.active_pairs > spec_.queue_pairs) {
    reader.fail("more queue pairs in use than there are");
  }
  if ((state.mac[0] & 1) != 0) reader.fail("its address is a group address");
  if (state.filter.unicast.size() > kMaxMacTable || state.filter.multicast.size() > kMaxMacTable) {
    reader.fail("a table of addresses that is too long");
  }
  NetBuffers buffers = reader.load<NetBuffers>();
  if (buffers.pairs.size() != spec_.queue_pairs) reader.fail("buffers of another number of queues");
  for (std::size_t pair = 0; pair < buffers.pairs.size(); ++pair) {
    const VirtQueue* ring = active == nullptr ? nullptr : active->queues[2 * pair];
    const std::size_t limit = ring == nullptr ? 0 : ring->size();
    if (buffers.pairs[pair].size() > limit) reader.fail("more buffers held than the queue has");
  }
  const std::lock_guard lock(mutex_);
  state_ = std::move(state);
  for (std::size_t pair = 0; pair < receive_.size(); ++pair) {
    receive_[pair].saved = std::move(buffers.pairs[pair]);
  }
  if (active != nullptr) attach(*active);
}

void NetDevice::resume() {
  const std::lock_guard lock(mutex_);
  for (std::size_t pair = 0; pair < receive_.size(); ++pair) {
    Receive& receive = receive_[pair];
    VirtQueue* ring = queue(2 * pair);
    for (const ChainState& saved : std::exchange(receive.saved, {})) {
      if (ring == nullptr) break;
      if (auto chain = ring->retake(saved)) receive.held.push_back(std::move(*chain));
    }
  }
  if (queues_.empty()) return;
  // It stands at another place than before: the network has to learn where (5.1.6.5.4).
  if (negotiated(kNetGuestAnnounce) && negotiated(kNetStatus) && state_.link_up) {
    state_.announce = true;
    config_changed();
  }
  pump_control();
  for (std::size_t pair = 0; pair < spec_.queue_pairs; ++pair) pump_transmit(pair);
  pump_receive();
}

void validate(const NetSpec& spec) {
  const auto refuse = [&spec](const std::string& detail, const std::string& hint) {
    throw Error("machine spec", EINVAL, "virtio-net \"" + spec.name + "\": " + detail, hint);
  };
  const bool is_null = std::ranges::all_of(spec.mac, [](std::uint8_t byte) { return byte == 0; });
  if ((spec.mac[0] & 1) != 0 || is_null) {
    refuse("its MAC address is no station's", "its first byte is even, and not all are 0");
  }
  if (spec.mtu != 0 && spec.mtu < kMinMtu) {
    refuse("an MTU of " + std::to_string(spec.mtu), "give 68 to 65535");
  }
  if (!spec.tap.empty()) check_interface_name("machine spec", spec.tap);
  if (spec.vhost && spec.tap.empty()) refuse("vhost without a tap", "give its backend a tap");
  if (spec.vhost && spec.queue_pairs != 1) {
    refuse(std::to_string(spec.queue_pairs) + " queue pairs with vhost", "leave queues out");
  }
  if (spec.queue_pairs < 1 || spec.queue_pairs > kMaxQueuePairs) {
    refuse(std::to_string(spec.queue_pairs) + " queue pairs", "give 1 to 8");
  }
}

std::unique_ptr<Net> make_net(const NetSpec& spec, std::unique_ptr<Link> link, FramesWaiting wake) {
  return std::make_unique<NetDevice>(spec, std::move(link), std::move(wake));
}

}  // namespace kvitest
