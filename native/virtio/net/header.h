// struct virtio_net_hdr (virtio 1.3, 5.1.6) between its 12 bytes and a Frame.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "native/net/link.h"
#include "native/virtio/device.h"

namespace kvitest {

// Feature bits (5.1.3).
inline constexpr std::uint64_t kNetCsum = 1ull << 0;
inline constexpr std::uint64_t kNetGuestCsum = 1ull << 1;
inline constexpr std::uint64_t kNetMtu = 1ull << 3;
inline constexpr std::uint64_t kNetMac = 1ull << 5;
inline constexpr std::uint64_t kNetGuestTso4 = 1ull << 7;
inline constexpr std::uint64_t kNetGuestTso6 = 1ull << 8;
inline constexpr std::uint64_t kNetHostTso4 = 1ull << 11;
inline constexpr std::uint64_t kNetHostTso6 = 1ull << 12;
inline constexpr std::uint64_t kNetMrgRxbuf = 1ull << 15;
inline constexpr std::uint64_t kNetStatus = 1ull << 16;
inline constexpr std::uint64_t kNetCtrlVq = 1ull << 17;
inline constexpr std::uint64_t kNetCtrlRx = 1ull << 18;
inline constexpr std::uint64_t kNetCtrlVlan = 1ull << 19;
inline constexpr std::uint64_t kNetCtrlRxExtra = 1ull << 20;
inline constexpr std::uint64_t kNetGuestAnnounce = 1ull << 21;
inline constexpr std::uint64_t kNetMq = 1ull << 22;
inline constexpr std::uint64_t kNetCtrlMacAddr = 1ull << 23;

std::span<const FeatureName> net_feature_names();

// Without those that need one which is not among them (2.2.1, 5.1.3.1).
std::uint64_t net_features_with_needs(std::uint64_t features);

inline constexpr std::size_t kNetHeader = 12;

// Sets what the header says of the frame. False for one that is not what the features allow, or
// that does not fit the frame's bytes.
bool apply_header(std::span<const std::byte, kNetHeader> header, std::uint64_t features,
                  Frame& frame);

// For a frame that the driver can take as it is.
std::array<std::byte, kNetHeader> make_header(const Frame& frame, std::uint16_t buffers);

}  // namespace kvitest
