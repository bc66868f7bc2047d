#include "native/virtio/net/vhost_net.h"

// Without what is no C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost.h>

#include <memory>
#include <utility>

#include "native/error.h"
#include "native/net/tap.h"
#include "native/virtio/config_image.h"
#include "native/virtio/net/config.h"
#include "native/virtio/net/header.h"

namespace kvitest {
namespace {

constexpr std::uint16_t kVhostQueues = 2;

// What the tap does for a driver, and what the kernel that serves the ring must know itself.
constexpr std::uint64_t kOfTap = kNetCsum | kNetGuestCsum | kNetGuestTso4 | kNetGuestTso6 |
                                 kNetHostTso4 | kNetHostTso6 | kNetMac | kNetStatus;
constexpr std::uint64_t kOfVhost = kNetMrgRxbuf;

}  // namespace

VhostNet::VhostNet(const NetSpec& spec, const GuestMemory& memory)
    : VhostNet(spec, memory, open_tap_file(spec.tap)) {}

VhostNet::VhostNet(const NetSpec& spec, const GuestMemory& memory, UniqueFd tap)
    : VhostServed({spec.name, "/dev/vhost-net", "vhost_net", kVhostQueues, kVhostQueues,
                   "leave vhost out of its backend"},
                  memory),
      spec_(spec),
      tap_(std::move(tap)) {
  state_.mtu = spec.mtu;
  state_.mac = spec.mac;
}

std::uint32_t VhostNet::type() const {
  return kTypeNet;
}

std::uint64_t VhostNet::features() const {
  std::uint64_t features = kOfTap | (vhost_.features() & kOfVhost);
  if (spec_.mtu != 0) features |= kNetMtu;
  return net_features_with_needs(features & ~withheld());
}

std::span<const FeatureName> VhostNet::feature_names() const {
  return net_feature_names();
}

std::vector<std::uint16_t> VhostNet::queue_sizes() const {
  return {kNetQueueSize, kNetQueueSize};
}

void VhostNet::read_config(std::uint64_t offset, std::span<std::byte> data) {
  const std::lock_guard lock(mutex_);
  read_image(net_config(spec_, state_.mac, state_.link_up ? kNetStatusLinkUp : 0), offset, data);
}

std::uint8_t VhostNet::config_generation() {
  const std::lock_guard lock(mutex_);
  return state_.config_generation;
}

void VhostNet::set_backend(int tap) const {
  for (std::uint16_t i = 0; i < kVhostQueues; ++i) {
    vhost_vring_file backend{.index = i, .fd = tap};
    vhost_.call(VHOST_NET_SET_BACKEND, "VHOST_NET_SET_BACKEND", &backend);
  }
}

void VhostNet::begin(std::uint64_t features) {
  const auto has = [features](std::uint64_t feature) { return (features & feature) != 0; };
  // Nobody cuts segments or completes checksums behind it for a driver that cannot take them.
  set_tap_offloads(
      tap_.get(), spec_.tap,
      {.checksum = has(kNetGuestCsum), .tcp4 = has(kNetGuestTso4), .tcp6 = has(kNetGuestTso6)});
  set_backend(tap_.get());
}

void VhostNet::end() {
  set_backend(-1);
}

void VhostNet::attach(const VirtioActivation& active) {
  features_ = active.features;
  interrupts_ = &active.interrupts;
}

void VhostNet::activate(std::uint64_t features, std::span<VirtQueue* const> queues,
                        VirtioInterrupts& interrupts) {
  const VirtioActivation active{features, queues, interrupts};
  const std::lock_guard lock(mutex_);
  attach(active);
  // What came while nobody listened is lost.
  discard_waiting(tap_.get());
  vhost_.activate(active);
}

void VhostNet::reset() {
  const std::lock_guard lock(mutex_);
  vhost_.reset();
  interrupts_ = nullptr;
  features_ = 0;
  state_.mac = spec_.mac;
}

void VhostNet::save(StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.save(state_);
}

void VhostNet::load(StateReader& reader, const VirtioActivation* active) {
  const auto state = reader.load<VhostNetState>();
  if (state.mtu != spec_.mtu) reader.fail("another MTU than this device's");
  if ((state.mac[0] & 1) != 0) reader.fail("its address is a group address");
  const std::lock_guard lock(mutex_);
  state_ = state;
  if (!state_.link_up) vhost_.hold(true);
  if (active == nullptr) return;
  attach(*active);
  vhost_.load(*active);
}

void VhostNet::resume() {
  vhost_.resume();
}

void VhostNet::set_link(bool up) {
  const std::lock_guard lock(mutex_);
  if (state_.link_up == up) return;
  state_.link_up = up;
  ++state_.config_generation;
  // What was on the wire when it was cut, or since.
  if (up) discard_waiting(tap_.get());
  vhost_.hold(!up);
  if (interrupts_ != nullptr && (features_ & kNetStatus) != 0) interrupts_->config_interrupt();
}

void VhostNet::set_mac(const MacAddress& mac) {
  const std::lock_guard lock(mutex_);
  state_.mac = mac;
  ++state_.config_generation;
}

std::unique_ptr<Net> make_vhost_net(const NetSpec& spec, const GuestMemory& memory) {
  return std::make_unique<VhostNet>(spec, memory);
}

}  // namespace kvitest
