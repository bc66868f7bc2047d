// The bytes that a fuzzer made, read as whatever a target needs. Past the end everything is 0.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "native/little_endian.h"

namespace kvitest {

class FuzzInput {
 public:
  explicit FuzzInput(std::span<const std::byte> bytes) : rest_(bytes) {}

  bool empty() const { return rest_.empty(); }
  // At most `limit` bytes; they live as long as the whole input.
  std::span<const std::byte> bytes(std::size_t limit) {
    const auto taken = rest_.first(std::min(limit, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }
  std::span<const std::byte> rest() { return bytes(rest_.size()); }
  std::uint64_t number(std::size_t width) { return read_le(bytes(width)); }
  std::uint8_t u8() { return static_cast<std::uint8_t>(number(1)); }
  std::uint16_t u16() { return static_cast<std::uint16_t>(number(2)); }
  std::uint32_t u32() { return static_cast<std::uint32_t>(number(4)); }
  std::uint64_t u64() { return number(8); }

 private:
  std::span<const std::byte> rest_;
};

}  // namespace kvitest
