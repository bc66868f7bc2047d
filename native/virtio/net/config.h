// What virtio-net says of itself, whoever serves its rings: struct virtio_net_config (virtio 1.3,
// 5.1.4), as far as it is offered.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "native/little_endian.h"
#include "native/virtio/net/net.h"

namespace kvitest {

inline constexpr std::uint32_t kTypeNet = 1;
inline constexpr std::uint16_t kNetQueueSize = 256;

inline constexpr std::uint16_t kNetStatusLinkUp = 1;
inline constexpr std::uint16_t kNetStatusAnnounce = 2;

inline std::array<std::byte, 12> net_config(const NetSpec& spec, const MacAddress& mac,
                                            std::uint16_t status) {
  std::array<std::byte, 12> config{};
  std::ranges::copy(std::as_bytes(std::span(mac)), config.begin());
  store_le<std::uint16_t>(config, 6, status);
  store_le<std::uint16_t>(config, 8, spec.queue_pairs);
  store_le<std::uint16_t>(config, 10, spec.mtu);
  return config;
}

}  // namespace kvitest
