// Register values as the bytes of a port or MMIO access: least significant byte first.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace kvitest {

// At most 8 bytes count.
inline std::uint64_t read_le(std::span<const std::byte> data) {
  std::uint64_t value = 0;
  const std::size_t length = std::min<std::size_t>(data.size(), 8);
  for (std::size_t i = 0; i < length; ++i) {
    value |= std::to_integer<std::uint64_t>(data[i]) << (8 * i);
  }
  return value;
}

// Bytes beyond the eighth become 0.
inline void write_le(std::span<std::byte> data, std::uint64_t value) {
  for (std::size_t i = 0; i < data.size(); ++i) {
    data[i] = i < 8 ? static_cast<std::byte>(value >> (8 * i)) : std::byte{0};
  }
}

}  // namespace kvitest
