// The LUN field of virtio-scsi's requests (virtio 1.3, 5.6.6.1).
#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace kvitest {

using LunField = std::array<std::byte, 8>;

// Where a request goes to.
struct ScsiAddress {
  bool well_known = false;
  std::uint8_t target = 0;
  std::uint16_t lun = 0;
  bool operator==(const ScsiAddress&) const = default;
  auto operator<=>(const ScsiAddress&) const = default;
};

inline std::optional<ScsiAddress> address_of(const LunField& field) {
  const auto at = [&](std::size_t i) { return std::to_integer<std::uint8_t>(field[i]); };
  if (std::ranges::any_of(std::span(field).subspan(4),
                          [](std::byte b) { return b != std::byte{}; })) {
    return std::nullopt;
  }
  if (at(0) == 0xc1 && at(1) == 0x01 && at(2) == 0 && at(3) == 0) return ScsiAddress{true, 0, 0};
  // A single level, by either of its methods.
  if (at(0) != 1 || (at(2) & 0x80) != 0) return std::nullopt;
  return ScsiAddress{false, at(1), static_cast<std::uint16_t>((at(2) & 0x3f) << 8 | at(3))};
}

}  // namespace kvitest
