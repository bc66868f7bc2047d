// Little-endian numbers in bytes: registers of ports and MMIO, fields of on-disk, firmware and
// virtio structures.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <type_traits>

namespace kvitest {

static_assert(std::endian::native == std::endian::little);

// A number as wide as data. At most 8 bytes count.
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

// A field at a fixed offset, aligned or not. Both throw std::out_of_range when it is not wholly
// inside bytes.
template <typename T>
T load_le(std::span<const std::byte> bytes, std::size_t offset) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (offset > bytes.size() || bytes.size() - offset < sizeof(T)) {
    throw std::out_of_range("field outside its structure");
  }
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

template <typename T>
void store_le(std::span<std::byte> bytes, std::size_t offset, std::type_identity_t<T> value) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (offset > bytes.size() || bytes.size() - offset < sizeof(T)) {
    throw std::out_of_range("field outside its structure");
  }
  std::memcpy(bytes.data() + offset, &value, sizeof value);
}

}  // namespace kvitest
