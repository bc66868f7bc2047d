// Fixed-offset fields of on-disk and firmware structures, which are little-endian and unaligned.
#pragma once

#include <bit>
#include <cstddef>
#include <cstring>
#include <span>
#include <stdexcept>
#include <type_traits>

namespace kvitest {

static_assert(std::endian::native == std::endian::little);

// Both throw std::out_of_range when the field is not wholly inside bytes.
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
