// The control queue (virtio 1.3, 5.1.6.5).
#include <algorithm>
#include <array>

#include "native/little_endian.h"
#include "native/virtio/net/device.h"

namespace kvitest {
namespace {

constexpr std::uint8_t kClassRx = 0;
constexpr std::uint8_t kClassMac = 1;
constexpr std::uint8_t kClassVlan = 2;
constexpr std::uint8_t kClassAnnounce = 3;
constexpr std::uint8_t kClassMq = 4;

constexpr std::uint8_t kMacTableSet = 0;
constexpr std::uint8_t kMacAddressSet = 1;
constexpr std::uint8_t kVlanAdd = 0;
constexpr std::uint8_t kVlanDelete = 1;
constexpr std::uint8_t kRxExtraFirst = 2;

constexpr std::byte kOk{0};
constexpr std::byte kError{1};

// Class, command and the longest table that a driver can mean: each address once, twice.
constexpr std::size_t kMaxRequest = 64 * 1024;
constexpr std::size_t kHeader = 2;
constexpr std::size_t kMac = 6;

// Takes one of the two tables of VIRTIO_NET_CTRL_MAC_TABLE_SET off the front; false when it is cut.
bool take_table(std::span<const std::byte>& data, std::vector<MacAddress>& table, bool& overflow) {
  if (data.size() < 4) return false;
  const std::uint64_t entries = load_le<std::uint32_t>(data, 0);
  data = data.subspan(4);
  if (entries > data.size() / kMac) return false;
  table.clear();
  overflow = entries > kMaxMacTable;
  for (std::size_t i = 0; i < std::min<std::uint64_t>(entries, kMaxMacTable); ++i) {
    table.push_back(load_le<MacAddress>(data, i * kMac));
  }
  data = data.subspan(entries * kMac);
  return true;
}

}  // namespace

void NetDevice::pump_control() {
  const std::size_t index = control_queue();
  VirtQueue* ring = negotiated(kNetCtrlVq) ? queue(index) : nullptr;
  if (ring == nullptr) return;
  std::size_t left = request_budget(*ring);
  for (; left != 0; --left) {
    auto chain = ring->pop();
    if (!chain) break;
    const std::uint64_t size = chain->readable();
    bool done = false;
    if (size >= kHeader && size <= kMaxRequest && chain->writable() != 0) {
      std::vector<std::byte> request(size);
      chain->read(request);
      done = handle_control(request);
    }
    chain->write(std::array{done ? kOk : kError});
    ring->push_used(*chain, chain->written());
  }
  if (left == 0) ring->request_notification();
  interrupt(index);
}

bool NetDevice::handle_control(std::span<const std::byte> request) {
  const auto group = std::to_integer<std::uint8_t>(request[0]);
  const auto command = std::to_integer<std::uint8_t>(request[1]);
  const std::span<const std::byte> data = request.subspan(kHeader);
  switch (group) {
    case kClassRx:
      return handle_rx_mode(command, data);
    case kClassMac:
      return handle_mac(command, data);
    case kClassVlan:
      return handle_vlan(command, data);
    case kClassAnnounce:
      if (command != 0 || !negotiated(kNetGuestAnnounce)) return false;
      state_.announce = false;
      ++state_.config_generation;
      return true;
    case kClassMq: {
      if (command != 0 || !negotiated(kNetMq) || data.size() != 2) return false;
      const auto pairs = load_le<std::uint16_t>(data, 0);
      if (pairs < 1 || pairs > spec_.queue_pairs) return false;
      state_.active_pairs = pairs;
      return true;
    }
    default:
      return false;
  }
}

bool NetDevice::handle_rx_mode(std::uint8_t command, std::span<const std::byte> data) {
  const std::uint64_t needed = command >= kRxExtraFirst ? kNetCtrlRxExtra : kNetCtrlRx;
  if (!negotiated(needed) || data.size() != 1) return false;
  const auto value = std::to_integer<std::uint8_t>(data[0]);
  if (value > 1) return false;
  NetFilter& filter = state_.filter;
  bool* const modes[] = {&filter.promiscuous,  &filter.all_multicast, &filter.all_unicast,
                         &filter.no_multicast, &filter.no_unicast,    &filter.no_broadcast};
  if (command >= std::size(modes)) return false;
  *modes[command] = value == 1;
  return true;
}

bool NetDevice::handle_mac(std::uint8_t command, std::span<const std::byte> data) {
  if (command == kMacAddressSet) {
    if (!negotiated(kNetCtrlMacAddr) || data.size() != kMac) return false;
    const auto mac = load_le<MacAddress>(data, 0);
    if ((mac[0] & 1) != 0) return false;
    state_.mac = mac;
    ++state_.config_generation;
    return true;
  }
  if (command != kMacTableSet || !negotiated(kNetCtrlRx)) return false;
  // Both tables or none: a request that is cut changes nothing.
  NetFilter next = state_.filter;
  if (!take_table(data, next.unicast, next.unicast_overflow) ||
      !take_table(data, next.multicast, next.multicast_overflow) || !data.empty()) {
    return false;
  }
  state_.filter = std::move(next);
  return true;
}

bool NetDevice::handle_vlan(std::uint8_t command, std::span<const std::byte> data) {
  if (!negotiated(kNetCtrlVlan) || data.size() != 2) return false;
  const unsigned id = load_le<std::uint16_t>(data, 0);
  if (id >= 4096) return false;
  std::uint64_t& word = state_.filter.vlans[id / 64];
  const std::uint64_t bit = std::uint64_t{1} << (id % 64);
  if (command == kVlanAdd) {
    word |= bit;
  } else if (command == kVlanDelete) {
    word &= ~bit;
  } else {
    return false;
  }
  return true;
}

}  // namespace kvitest
