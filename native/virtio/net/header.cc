#include "native/virtio/net/header.h"

#include "native/little_endian.h"
#include "native/net/offload.h"

namespace kvitest {
namespace {

constexpr std::uint8_t kNeedsChecksum = 1;
constexpr std::uint8_t kGsoNone = 0;
constexpr std::uint8_t kGsoTcp4 = 1;
constexpr std::uint8_t kGsoTcp6 = 4;

constexpr FeatureName kNames[] = {
    {"csum", kNetCsum},
    {"guest_csum", kNetGuestCsum},
    {"mtu", kNetMtu},
    {"mac", kNetMac},
    {"guest_tso4", kNetGuestTso4},
    {"guest_tso6", kNetGuestTso6},
    {"host_tso4", kNetHostTso4},
    {"host_tso6", kNetHostTso6},
    {"mrg_rxbuf", kNetMrgRxbuf},
    {"status", kNetStatus},
    {"ctrl_vq", kNetCtrlVq},
    {"ctrl_rx", kNetCtrlRx},
    {"ctrl_vlan", kNetCtrlVlan},
    {"ctrl_rx_extra", kNetCtrlRxExtra},
    {"guest_announce", kNetGuestAnnounce},
    {"mq", kNetMq},
    {"ctrl_mac_addr", kNetCtrlMacAddr},
};

// Offsets.
constexpr std::size_t kFlags = 0;
constexpr std::size_t kGsoType = 1;
constexpr std::size_t kHeaderLength = 2;
constexpr std::size_t kGsoSize = 4;
constexpr std::size_t kChecksumStart = 6;
constexpr std::size_t kChecksumOffset = 8;
constexpr std::size_t kBuffers = 10;

}  // namespace

std::span<const FeatureName> net_feature_names() {
  return kNames;
}

std::uint64_t net_features_with_needs(std::uint64_t features) {
  constexpr std::uint64_t kNeedControl =
      kNetCtrlRx | kNetCtrlVlan | kNetGuestAnnounce | kNetMq | kNetCtrlMacAddr;
  if ((features & kNetCsum) == 0) features &= ~(kNetHostTso4 | kNetHostTso6);
  if ((features & kNetGuestCsum) == 0) features &= ~(kNetGuestTso4 | kNetGuestTso6);
  if ((features & kNetCtrlVq) == 0) features &= ~kNeedControl;
  if ((features & kNetCtrlRx) == 0) features &= ~kNetCtrlRxExtra;
  return features;
}

bool apply_header(std::span<const std::byte, kNetHeader> header, std::uint64_t features,
                  Frame& frame) {
  const auto flags = load_le<std::uint8_t>(header, kFlags);
  const auto gso = load_le<std::uint8_t>(header, kGsoType);
  if ((flags & kNeedsChecksum) != 0) {
    if ((features & kNetCsum) == 0) return false;
    frame.checksum = PartialChecksum{load_le<std::uint16_t>(header, kChecksumStart),
                                     load_le<std::uint16_t>(header, kChecksumOffset)};
  }
  if (gso != kGsoNone) {
    const bool allowed = (gso == kGsoTcp4 && (features & kNetHostTso4) != 0) ||
                         (gso == kGsoTcp6 && (features & kNetHostTso6) != 0);
    if (!allowed) return false;
    frame.segmentation = Segmentation{gso == kGsoTcp4 ? SegmentKind::kTcp4 : SegmentKind::kTcp6,
                                      load_le<std::uint16_t>(header, kGsoSize)};
  }
  return offloads_fit(frame);
}

std::array<std::byte, kNetHeader> make_header(const Frame& frame, std::uint16_t buffers) {
  std::array<std::byte, kNetHeader> header{};
  store_le<std::uint16_t>(header, kBuffers, buffers);
  if (!frame.checksum) return header;
  header[kFlags] = std::byte{kNeedsChecksum};
  store_le<std::uint16_t>(header, kChecksumStart, frame.checksum->start);
  store_le<std::uint16_t>(header, kChecksumOffset, frame.checksum->offset);
  if (!frame.segmentation) return header;
  header[kGsoType] =
      std::byte{frame.segmentation->kind == SegmentKind::kTcp4 ? kGsoTcp4 : kGsoTcp6};
  store_le<std::uint16_t>(header, kGsoSize, frame.segmentation->size);
  // A segmented frame's checksum starts at its TCP header, whose length is in its thirteenth byte.
  const std::size_t tcp = frame.checksum->start;
  const std::size_t length = std::to_integer<std::size_t>(frame.bytes[tcp + 12] >> 4) * 4;
  store_le<std::uint16_t>(header, kHeaderLength, static_cast<std::uint16_t>(tcp + length));
  return header;
}

}  // namespace kvitest
